"""The rows: what a battle is, the readers that make them, folds, planted ones."""
