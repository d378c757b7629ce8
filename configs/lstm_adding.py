"""The adding problem: two marked numbers among a hundred, to be added at the end.

Always saying 1 gives a mean square error of 1/6. `:elman` and `:gru` have other cells of about as
many parameters, `:transformer` has attention. Other lengths: `--task.corpus.length 200
--batch.max-length 200 --batch.tokens 10000`.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.memory_problems import Adding
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.transformer_encoder import TransformerEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.memory import AddingTask


def experiment() -> Experiment:
    return Experiment(
        description='the adding problem over 100 steps, an LSTM of 64',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Numbers(),
                layers=RecurrentConfig(cell=LSTM(hidden_dim=64)),
            ),
            pooling='last',
        ),
        task=AddingTask(corpus=Adding(length=100)),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=2e-3, warmup_steps=100, decay_steps=6000),
        batch=BatchConfig(tokens=50 * 100, max_length=100, fitted_buckets=1, length_multiple=1),
        train=TrainConfig(steps=6000, log_every=50, evaluate_every=250, checkpoint_every=500),
        published=Published(
            paper='Bai et al. 2018',
            result='MSE over 600 steps: LSTM 0.164, GRU 5.3e-5, RNN 0.177',
            source='verified',
        ),
    )


VARIANTS = {
    'elman': {
        'description': 'the adding problem over 100 steps, a simple recurrent network of 128',
        'model.encoder.layers.cell': Elman(hidden_dim=128),
    },
    'gru': {
        'description': 'the adding problem over 100 steps, a GRU of 72',
        'model.encoder.layers.cell': GRU(hidden_dim=72),
    },
    'transformer': {
        'description': 'the adding problem over 100 steps, a Transformer encoder of 32',
        'model.encoder': TransformerEncoderConfig(
            inputs=Numbers(),
            num_layers=2,
            embed_dim=32,
            num_heads=4,
            dropout_rate=0.0,
        ),
    },
}
