"""Token ids to probabilities to a submission."""
