"""Training: a recipe in, a judge's folder out."""
