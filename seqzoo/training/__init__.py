"""State, step, loop, evaluation, checkpoints and events."""

from seqzoo.training.run import Run, evaluate, load_run
from seqzoo.training.train import TrainResult, train

__all__ = ['Run', 'TrainResult', 'evaluate', 'load_run', 'train']
