"""Rows of all shapes to examples: read, recognise, render with proven masks, cache, order."""
