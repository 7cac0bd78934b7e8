"""What judges are worth on battles with known verdicts: figures, slices, pictures and one report."""
