"""What grows with what, from one GPU to a thousand: see docs/scaling.md."""
