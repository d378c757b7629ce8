"""The Penn Treebank by words, as Zaremba, Sutskever, Vinyals 2014 trained it (arXiv:1409.2329).

Two LSTM layers, 10,000 words, truncated back-propagation with the state carried from batch to
batch. The small network has no dropout, 20 steps and 13 epochs; `:medium` and `:large` drop between
layers, before the first and behind the last, with 35 steps and 39 and 55 epochs.

The paper adds the loss over the steps of a batch and takes the mean over its rows alone, so that
its gradient is as many times ours, a mean over tokens, as a row has steps. Its learning rate of 1
is therefore 20 or 35 here, and its clipping at 5 or 10 is at 5 / 20, 5 / 35 or 10 / 35.

`:quick` is the small network with dropout of a quarter and another optimizer, in eight epochs
instead of thirteen; no paper has it.

Differences: biases start at zero instead of uniform; a development text is read as one stream of
pieces of 400 tokens, which gives the same perplexity as one token at a time.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import SGD, Adam
from seqzoo.optimization.schedules import Cosine, EpochDecay
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

ROWS, TOKENS = 20, 929_589  # of a batch; of the training text, ends of lines included


def model(width: int, scale: float, dropout: float) -> RecurrentLMConfig:
    return RecurrentLMConfig(
        embed_dim=width,
        layers=RecurrentConfig(
            cell=LSTM(hidden_dim=width, forget_bias=0.0, init_scale=scale),
            num_layers=2,
            input_dropout_rate=dropout,
            dropout_rate=dropout,
            output_dropout_rate=dropout,
        ),
        init_scale=scale,
    )


def batch(unroll: int, rows: int = ROWS) -> BatchConfig:
    return BatchConfig(
        tokens=rows * unroll, max_length=unroll, evaluation_rows=1, evaluation_max_length=400
    )


def train(unroll: int, epochs: int, rows: int = ROWS) -> TrainConfig:
    epoch = TOKENS // (rows * unroll)
    return TrainConfig(
        steps=epochs * epoch, log_every=100, evaluate_every=epoch, checkpoint_every=epoch
    )


def experiment() -> Experiment:
    return Experiment(
        description='Penn Treebank by words, the small LSTM of Zaremba et al. 2014',
        model=model(200, 0.1, 0.0),
        task=LanguageModeling(
            corpus=SplitFiles(
                folder='ptb',
                train=('ptb.train.txt',),
                dev=('ptb.valid.txt',),
                test=('ptb.test.txt',),
            ),
            tokenizer=Words(vocab_size=10_000),
        ),
        optimizer=SGD(clip_norm=5 / 20),
        schedule=EpochDecay(rate=20.0, constant_epochs=4, divisor=2.0),
        batch=batch(20),
        train=train(20, 13),
        decode=Decoding(method='sample', extra_length=30),
        published=Published(
            paper='Zaremba et al. 2014',
            result='perplexity 120.7 validation, 114.5 test',
            source='secondary',
        ),
    )


VARIANTS = {
    'medium': {
        'description': 'Penn Treebank by words, the medium LSTM of Zaremba et al. 2014',
        'model': model(650, 0.05, 0.5),
        'optimizer.clip_norm': 5 / 35,
        'schedule': EpochDecay(rate=35.0, constant_epochs=6, divisor=1.2),
        'batch': batch(35),
        'train': train(35, 39),
        'published.result': 'perplexity 86.2 validation, 82.7 test',
        'published.parameters': '20M',
    },
    'large': {
        'description': 'Penn Treebank by words, the large LSTM of Zaremba et al. 2014',
        'model': model(1500, 0.04, 0.65),
        'optimizer.clip_norm': 10 / 35,
        'schedule': EpochDecay(rate=35.0, constant_epochs=14, divisor=1.15),
        'batch': batch(35),
        'train': train(35, 55),
        'published.result': 'perplexity 82.2 validation, 78.4 test',
        'published.parameters': '66M',
    },
    'quick': {
        'description': 'Penn Treebank by words, the small LSTM with dropout and Adam, eight epochs',
        'model': model(200, 0.1, 0.25),
        'optimizer': Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        'schedule': Cosine(peak=5e-3, warmup_steps=200, decay_steps=8 * (TOKENS // (32 * 32))),
        'batch': batch(32, rows=32),
        'train': train(32, 8, rows=32),
        'published': Published(),
    },
}
