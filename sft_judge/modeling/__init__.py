"""What a judge is: judge.json, loading, the verdict head, temperature scaling, tiny models."""
