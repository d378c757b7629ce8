"""Losses, schedules and optimizers."""
