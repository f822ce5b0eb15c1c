"""Exports: what was trained, as another program loads it, and only where that program computes the same."""
