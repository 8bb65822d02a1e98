"""What becomes of jobs when anything dies at any moment."""
