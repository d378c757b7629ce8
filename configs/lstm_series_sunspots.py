"""A series forecast one value at a time by an LSTM with a normal distribution at every step.

The sunspot numbers of 235 years, month by month; `:temperatures`, the daily minimum in Melbourne
over ten years; `:airline`, the passengers of twelve years: 101 months to train on, too few for
intervals that hold. `:gru` has another cell. The files are public: `seqzoo data prepare` fetches
them.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.time_series import SeriesFile
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.forecasting import Forecasting


def experiment() -> Experiment:
    return Experiment(
        description='monthly sunspots, each month a normal distribution given the months before',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Numbers(),
                layers=RecurrentConfig(cell=LSTM(hidden_dim=16), output_dropout_rate=0.2),
            ),
            per='step',
        ),
        task=Forecasting(
            corpus=SeriesFile(file='time_series/monthly-sunspots.csv', period=132),
            context=96,
            window=128,
            stride=8,
        ),
        optimizer=Adam(clip_norm=1.0),
        schedule=Cosine(peak=5e-3, warmup_steps=20, decay_steps=300),
        batch=BatchConfig(tokens=32 * 128, max_length=128, buckets=(128,)),
        train=TrainConfig(steps=300, log_every=10, evaluate_every=25, checkpoint_every=25),
        decode=Decoding(method='sample', extra_length=12, rows=8),
    )


VARIANTS = {
    'temperatures': {
        'description': 'daily minimum temperatures, each day a normal distribution',
        'task.corpus': SeriesFile(file='time_series/daily-min-temperatures.csv', period=365),
        'task.reads': 'values',
        'decode.extra_length': 7,
    },
    'airline': {
        'description': 'monthly airline passengers: their growth, each month a distribution',
        'task.corpus': SeriesFile(file='time_series/airline-passengers.csv', period=12),
        'task.context': 24,
        'task.window': 36,
        'task.stride': 1,
        'task.logarithm': True,
        'task.reads': 'changes',
        'batch': BatchConfig(tokens=64 * 36, max_length=36, buckets=(36,)),
        'model.encoder.layers.cell': LSTM(hidden_dim=32),
        'model.encoder.layers.output_dropout_rate': 0.5,
        'optimizer.weight_decay': 0.3,
    },
    'gru': {
        'description': 'monthly sunspots, each month a normal distribution, a GRU of 16',
        'model.encoder.layers.cell': GRU(hidden_dim=16),
    },
}
