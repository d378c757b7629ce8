"""Weights in and out: other frameworks' names and layouts, as NumPy arrays."""
