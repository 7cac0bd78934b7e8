"""Memory and time of a training run or a pipeline, estimated without running it."""
