"""The mixture of experts between two LSTMs on One Billion Words (Shazeer et al. 2017,
arXiv:1701.06538): 272,891,904 parameters without embeddings and softmax, for 256 experts.

LSTM of 512, experts 512 -> 1024 -> 512 of which each word sees four, LSTM of 512; every layer's
input is added to its output. `:moe_4` and `:moe_32` have 8,392,704 and 37,781,504 parameters;
`:lstm_4x512`, four LSTM layers, is the network of the same operations that they are compared with.

Differences: the softmax is whole, where the paper samples; LSTMs have no biases, which gives the
paper's counts; experts have places for twice their share while training. Learning rate, batch and
dropout are ours: the paper tunes the last for each network. The corpus is yours to bring, as text.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.mixture import MixtureConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import InverseSquareRoot
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

ROWS, STEPS = 1024, 20


def experiment() -> Experiment:
    return Experiment(
        description='One Billion Words, 256 experts between two LSTMs, Shazeer et al. 2017',
        model=RecurrentLMConfig(
            vocab_multiple=128,
            embed_dim=512,
            layers=RecurrentConfig(
                cell=LSTM(hidden_dim=512, biases=0, forget_bias=0.0),
                num_layers=2,
                residual_from=0,
                input_dropout_rate=0.1,
                dropout_rate=0.1,
                output_dropout_rate=0.1,
            ),
            init_scale=None,
            mixture=MixtureConfig(
                num_experts=256,
                top_k=4,
                mlp_dim=1024,
                dispatch='capacity',
                evaluation_dispatch='dense',
                capacity_factor=2.0,
                group='batch',
            ),
            dtype='bfloat16',
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='lm1b'), tokenizer=Words(vocab_size=793_470)
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8),
        schedule=InverseSquareRoot(peak=1e-3, warmup_steps=1000),
        batch=BatchConfig(tokens=ROWS * STEPS, max_length=STEPS),
        train=TrainConfig(steps=400_000, evaluate_every=20_000, checkpoint_every=5000),
        decode=Decoding(method='sample', extra_length=30),
        published=Published(
            paper='Shazeer et al. 2017',
            result='perplexity 35.7 test, after ten epochs',
            source='verified',
            parameters='272.9M',
            left_out=('embedding/*', 'output/*', 'logit_bias'),
        ),
    )


VARIANTS = {
    'moe_4': {
        'description': 'One Billion Words, four experts, all of them for every word',
        'model.mixture.num_experts': 4,
        'model.mixture.dispatch': 'dense',
        'published.result': 'perplexity 45.0 test, after ten epochs',
        'published.parameters': '8.4M',
    },
    'moe_32': {
        'description': 'One Billion Words, 32 experts between two LSTMs',
        'model.mixture.num_experts': 32,
        'published.result': 'perplexity 39.7 test, after ten epochs',
        'published.parameters': '37.8M',
    },
    'lstm_4x512': {
        'description': 'One Billion Words, four LSTM layers of 512',
        'model.mixture': None,
        'model.layers.num_layers': 4,
        'published.result': 'perplexity 46.0 test, after ten epochs',
        'published.parameters': '',
    },
}
