"""State, step, loop, evaluation, checkpoints and events."""
