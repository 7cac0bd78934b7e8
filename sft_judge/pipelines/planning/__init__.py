"""What a training run or a pipeline costs in memory and time, without running it."""
