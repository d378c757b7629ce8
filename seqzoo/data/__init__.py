"""Tokenizers, sources, batch plans and the pipeline from text to arrays."""
