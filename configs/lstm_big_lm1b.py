"""The large LSTM of Jozefowicz et al. 2016 on One Billion Words, and its factorised and grouped
forms (Kuchaiev and Ginsburg 2017, arXiv:1703.10722).

Two layers of 8192 units with projections of 1024: 151,060,480 recurrent parameters, or with gates
factorised through 512 columns (`:f512`) 52,494,336, in two groups (`:g2`) 83,951,616, in four
(`:g4`) 50,397,184, in eight (`:g8`) 33,619,968. Embeddings and softmax, 793,470 words each, come to
1.6 billion more. Perplexities are those that the authors give after one week on eight V100; they
withdrew the first ones.

Differences: the softmax is whole, where the paper samples 8192 words; its network is the same. The
corpus is yours to bring, as text.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.factorised import FactorisedLSTM, GroupedLSTM
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import Adagrad
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

UNITS, PROJECTION, ROWS, STEPS = 8192, 1024, 1024, 20


def experiment() -> Experiment:
    return Experiment(
        description='One Billion Words, the large LSTM of Jozefowicz et al. 2016',
        model=RecurrentLMConfig(
            vocab_multiple=128,
            embed_dim=PROJECTION,
            layers=RecurrentConfig(
                cell=LSTM(hidden_dim=UNITS, projection_dim=PROJECTION),
                num_layers=2,
                input_dropout_rate=0.1,
                dropout_rate=0.1,
                output_dropout_rate=0.1,
            ),
            init_scale=None,
            dtype='bfloat16',
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='lm1b'), tokenizer=Words(vocab_size=793_470)
        ),
        optimizer=Adagrad(initial=1.0, clip_norm=1.0),
        schedule=Constant(rate=0.2),
        batch=BatchConfig(tokens=ROWS * STEPS, max_length=STEPS),
        train=TrainConfig(steps=1_000_000, evaluate_every=20_000, checkpoint_every=5000),
        decode=Decoding(method='sample', extra_length=30),
        published=Published(
            paper='Kuchaiev and Ginsburg 2017',
            result='perplexity 35.1 test',
            source='verified',
            parameters='151,060,480',
            left_out=('embedding/*', 'output/*', 'logit_bias'),
        ),
    )


VARIANTS = {
    'f512': {
        'description': 'One Billion Words, gates factorised through 512 columns',
        'model.layers.cell': FactorisedLSTM(hidden_dim=UNITS, projection_dim=PROJECTION, rank=512),
        'published.result': 'perplexity 36.3 test',
        'published.parameters': '52,494,336',
    },
    'g2': {
        'description': 'One Billion Words, gates in two groups',
        'model.layers.cell': GroupedLSTM(hidden_dim=UNITS, projection_dim=PROJECTION, groups=2),
        'published.result': 'perplexity 36.0 test',
        'published.parameters': '83,951,616',
    },
    'g4': {
        'description': 'One Billion Words, gates in four groups',
        'model.layers.cell': GroupedLSTM(hidden_dim=UNITS, projection_dim=PROJECTION, groups=4),
        'published.result': 'perplexity 40.6 test',
        'published.parameters': '50,397,184',
    },
    'g8': {
        'description': 'One Billion Words, gates in eight groups',
        'model.layers.cell': GroupedLSTM(hidden_dim=UNITS, projection_dim=PROJECTION, groups=8),
        'published.result': 'perplexity 39.4 test',
        'published.parameters': '33,619,968',
    },
}
