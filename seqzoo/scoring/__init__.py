"""Scores of text against references: text in, numbers out."""
