"""What both callbacks do in a `fit`, and `LearningRateLogger`, which does no more."""
