"""Greedy, sampling and beam search: they take a step function and know no model."""
