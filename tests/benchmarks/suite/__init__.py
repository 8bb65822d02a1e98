"""The benchmarks behind `scripts/bench`: one module for each section, in `sections`."""
