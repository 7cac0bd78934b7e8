"""Who is better? Ratings of models from the battles they met in, by votes or by a judge, with intervals."""
