"""Copy memory: ten symbols, a pause of fifty steps, the ten symbols again.

A model that knows when to speak but not what to say has a cross-entropy of 10 ln 8 / (T + 20) a
step, 0.297 at T = 50. With a forget gate that starts open, at a bias of 4, the LSTM learns what to
say within minutes; at 1 it has hardly begun by then. `:elman` and `:gru` have other cells of about
as many parameters, `:transformer` has attention. Other pauses: `--task.corpus.length 100
--batch.max-length 120 --batch.tokens 6000`.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.memory_problems import CopyMemory
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.transformer_encoder import TransformerEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.memory import CopyTask


def experiment() -> Experiment:
    return Experiment(
        description='copy memory after a pause of 50 steps, an LSTM of 128',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Tokens(embed_dim=10),
                layers=RecurrentConfig(cell=LSTM(hidden_dim=128, forget_bias=4.0)),
            ),
            per='step',
        ),
        task=CopyTask(corpus=CopyMemory(length=50, train_size=50_000)),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=100, decay_steps=10_000),
        batch=BatchConfig(tokens=50 * 70, max_length=70, fitted_buckets=1, length_multiple=1),
        train=TrainConfig(steps=10_000, log_every=50, evaluate_every=250, checkpoint_every=500),
        published=Published(
            paper='Bai et al. 2018',
            source='verified',
            result='cross-entropy, T = 1000: LSTM 0.0204, GRU 0.0197, RNN 0.0202 (guessing 0.0204)',
        ),
    )


VARIANTS = {
    'elman': {
        'description': 'copy memory after a pause of 50 steps, a simple recurrent network of 256',
        'model.encoder.layers.cell': Elman(hidden_dim=256),
    },
    'gru': {
        'description': 'copy memory after a pause of 50 steps, a GRU of 148',
        'model.encoder.layers.cell': GRU(hidden_dim=148),
    },
    'transformer': {
        'description': 'copy memory after a pause of 50 steps, a Transformer reading forward',
        'model.encoder': TransformerEncoderConfig(
            inputs=Tokens(embed_dim=10),
            direction='forward',
            num_layers=2,
            embed_dim=64,
            mlp_dim=128,
            num_heads=4,
            dropout_rate=0.0,
        ),
    },
}
