"""Studies: many runs of one recipe, over seeds or settings. Imports training and report."""
