"""Tiny Shakespeare by characters: the defaults of Karpathy's char-rnn, 240,321 parameters.

Two LSTM layers of 128 on one-hot characters, rows of 50 characters, 50 rows, state carried from
batch to batch, RMSProp with every element of the gradient moved into [-5, 5]; after ten epochs the
learning rate falls by 3 % an epoch. The last twentieth of the text is the development text; there
is no test text. char-rnn cuts the text into 50 streams first and takes the last batches of each for
validation, so that its figures are of other characters.

`:ten_minutes` is wider, drops, and learns faster.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import Adam, RMSProp
from seqzoo.optimization.schedules import Cosine, EpochDecay
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

EPOCH = 423  # updates


def experiment() -> Experiment:
    return Experiment(
        description='Tiny Shakespeare by characters, the defaults of char-rnn',
        model=RecurrentLMConfig(
            embed_dim=None,
            layers=RecurrentConfig(
                cell=LSTM(hidden_dim=128, biases=2, init_scale=0.08), num_layers=2
            ),
            init_scale=0.08,
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='tiny_shakespeare', file='input.txt', test_share=0.0),
            tokenizer=Characters(vocab_size=65),
        ),
        optimizer=RMSProp(clip_value=5.0),
        schedule=EpochDecay(rate=2e-3, constant_epochs=10, divisor=1 / 0.97),
        batch=BatchConfig(tokens=50 * 50, max_length=50),
        train=TrainConfig(
            steps=50 * EPOCH, evaluate_every=EPOCH, checkpoint_every=EPOCH, log_every=100
        ),
        decode=Decoding(method='sample', temperature=0.8, extra_length=300),
        published=Published(
            paper='Karpathy 2015 (char-rnn)',
            result='none published',
            source='verified',
            parameters='150K',
            difference="the figure of the authors' README is out of date: two layers of 128 with "
            'two biases a gate and a softmax over 65 characters have 240,321',
        ),
    )


VARIANTS = {
    'ten_minutes': {
        'description': 'Tiny Shakespeare by characters, 0.9M parameters, minutes on two cores',
        'published': Published(),
        'model.layers': RecurrentConfig(
            cell=LSTM(hidden_dim=256),
            num_layers=2,
            dropout_rate=0.3,
            output_dropout_rate=0.3,
        ),
        'model.init_scale': None,
        'task.random_offset': True,
        'optimizer': Adam(clip_norm=1.0),
        'schedule': Cosine(peak=4e-3, warmup_steps=100, decay_steps=3000),
        'batch': BatchConfig(tokens=50 * 64, max_length=64),
        'train.steps': 3000,
        'train.evaluate_every': 500,
        'train.checkpoint_every': 500,
    },
}
