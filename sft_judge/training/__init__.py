"""A recipe to a judge's folder."""
