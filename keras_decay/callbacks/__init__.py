"""What both callbacks do in a `fit`, and the one that only logs."""
