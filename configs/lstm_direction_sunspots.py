"""Rising or falling, "bullish" or "bearish": will the sunspot number stand higher in a year?

What counts is the margin over always giving the more frequent class. `:temperatures` asks whether
it will be warmer in a week, `:airline` whether more people will fly in three months.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.series_directions import RisingOrFalling
from seqzoo.data.time_series import SeriesFile
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.direction import Direction


def experiment() -> Experiment:
    return Experiment(
        description='monthly sunspots: higher or lower in a year, from four years, an LSTM of 16',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Numbers(), layers=RecurrentConfig(cell=LSTM(hidden_dim=16))
            ),
            pooling='last',
            dropout_rate=0.3,
        ),
        task=Direction(corpus=RisingOrFalling(window=48, ahead=12)),
        optimizer=Adam(clip_norm=1.0, weight_decay=0.01),
        schedule=Cosine(peak=3e-3, warmup_steps=20, decay_steps=400),
        batch=BatchConfig(tokens=64 * 48, max_length=48, fitted_buckets=1, length_multiple=1),
        train=TrainConfig(steps=400, log_every=10, evaluate_every=25, checkpoint_every=25),
    )


VARIANTS = {
    'temperatures': {
        'description': 'daily minimum temperatures: warmer or colder in a week, from six weeks',
        'task.corpus': RisingOrFalling(
            series=SeriesFile(file='time_series/daily-min-temperatures.csv'), window=42, ahead=7
        ),
    },
    'airline': {
        'description': 'airline passengers: more or fewer in three months, from one year',
        'task.corpus': RisingOrFalling(
            series=SeriesFile(file='time_series/airline-passengers.csv'), window=12, ahead=3
        ),
    },
}
