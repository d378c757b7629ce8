"""ListOps: nested lists of digits, reduced to one digit; lists of 20 to 100 tokens.

A Transformer encoder, and other families of about as many parameters: `:elman`, `:gru`, `:lstm`,
`:tcn`. `:lra` has the lengths of the Long Range Arena, 500 to 2,000 tokens, and its Transformer:
four layers of 512, eight heads, feed-forward layers of 1,024, the learning rate 0.05 / sqrt(step)
after 1,000 steps, 5,000 updates of 32 expressions; the arena's paper and its configurations do not
agree everywhere, and these are the configurations'. It wants an accelerator.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.listops import ListOps
from seqzoo.data.word_lists import TextConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Cell, Elman
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.tcn import TCNEncoderConfig, TCNLayers
from seqzoo.models.transformer_encoder import TransformerEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine, InverseSquareRoot
from seqzoo.tasks.classification import TextClassification

STEPS = 6000


def recurrent(cell: Cell) -> RecurrentEncoderConfig:
    """Two layers of that cell, reading forward."""
    return RecurrentEncoderConfig(
        inputs=Tokens(embed_dim=64),
        layers=RecurrentConfig(cell=cell, num_layers=2, dropout_rate=0.1),
    )


def experiment() -> Experiment:
    return Experiment(
        description='ListOps of 20 to 100 tokens, a Transformer encoder',
        model=LabelerConfig(
            encoder=TransformerEncoderConfig(
                inputs=Tokens(embed_dim=64), num_layers=4, embed_dim=64, num_heads=4
            ),
            pooling='mean',
        ),
        task=TextClassification(corpus=ListOps(), words=TextConfig(vocab_size=17, signs=True)),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=1e-3, warmup_steps=300, decay_steps=STEPS, final=1e-5),
        batch=BatchConfig(tokens=64 * 100, max_length=100, buckets=(40, 60, 80, 100)),
        train=TrainConfig(steps=STEPS, log_every=50, evaluate_every=250, checkpoint_every=500),
        published=Published(
            paper='Tay et al. 2021 (Long Range Arena)',
            result='500 to 2,000 tokens: Transformer 36.4 %; always the most frequent: 17 %',
            source='verified',
        ),
    )


VARIANTS = {
    'elman': {
        'description': 'ListOps of 20 to 100 tokens, a simple recurrent network',
        'model.encoder': recurrent(Elman(hidden_dim=256)),
        'model.pooling': 'last',
    },
    'gru': {
        'description': 'ListOps of 20 to 100 tokens, a GRU',
        'model.encoder': recurrent(GRU(hidden_dim=144)),
        'model.pooling': 'last',
    },
    'lstm': {
        'description': 'ListOps of 20 to 100 tokens, an LSTM',
        'model.encoder': recurrent(LSTM(hidden_dim=128)),
        'model.pooling': 'last',
    },
    'tcn': {
        'description': 'ListOps of 20 to 100 tokens, a TCN',
        'model.encoder': TCNEncoderConfig(
            inputs=Tokens(embed_dim=64),
            layers=TCNLayers(window=5, num_layers=4, hidden_dim=72, dropout_rate=0.1),
        ),
        'model.pooling': 'last',
    },
    'lra': {
        'description': 'ListOps of the Long Range Arena, 500 to 2,000 tokens, its Transformer',
        'model.encoder': TransformerEncoderConfig(
            inputs=Tokens(embed_dim=512),
            num_layers=4,
            embed_dim=512,
            mlp_dim=1024,
            num_heads=8,
        ),
        'task.corpus': ListOps(min_length=500, max_length=2000, train_size=96_000),
        'schedule': InverseSquareRoot(peak=0.05 / 1000**0.5, warmup_steps=1000),
        'batch': BatchConfig(tokens=32 * 2000, max_length=2000, buckets=(2000,)),
        'train.steps': 5000,
    },
}
