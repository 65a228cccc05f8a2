"""What users add: channel scores and losses of their own, and loggers of a training."""
