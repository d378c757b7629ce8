"""Angles for every residue of a chain, as sine and cosine, on chains made by a known rule.

No angle data is at hand; the rule (`seqzoo.data.angle_chains`) has what makes it hard: both
neighbours matter, and a state far back. The best mean absolute error of its two angles, which the
noise of 5 degrees leaves, is 3.99 and 5.64 degrees, 4.82 on average; always giving the mean
direction costs about 90.
"""

from seqzoo.data.angle_chains import AngleChains
from seqzoo.data.batching import BatchConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.angle_regression import AngleRegression

STEPS = 3000


def experiment() -> Experiment:
    return Experiment(
        description='Two angles for each residue of generated chains, a bidirectional LSTM',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Tokens(embed_dim=32),
                layers=RecurrentConfig(
                    cell=LSTM(hidden_dim=96), num_layers=2, directions='concatenated'
                ),
            ),
            per='step',
        ),
        task=AngleRegression(corpus=AngleChains()),
        optimizer=Adam(beta2=0.99, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=100, decay_steps=STEPS, final=2e-5),
        batch=BatchConfig(tokens=2048, max_length=60, buckets=(24, 36, 48, 60)),
        train=TrainConfig(steps=STEPS, evaluate_every=250, checkpoint_every=1000),
    )
