"""The Penn Treebank by words with a temporal convolutional network (Bai, Kolter, Koltun 2018).

Four blocks of 600 channels with windows of 3, tied embeddings of 600: 14,659,600 parameters, 61
words in sight. Plain gradient descent at 4, halved when the dev loss no longer falls, gradients
rescaled above a norm of 0.4. The authors read overlapping windows of 80 words of which the last 40
count; here rows of 40 go on from the histories of the rows before, so that every word counts once
and sees as much.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.tcn import TCNConfig
from seqzoo.optimization.optimizers import SGD
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

ROWS, LENGTH = 16, 40
EPOCH = 929_589 // (ROWS * LENGTH)


def experiment() -> Experiment:
    return Experiment(
        description='Penn Treebank by words, the TCN of Bai et al. 2018',
        model=TCNConfig(),
        task=LanguageModeling(
            corpus=SplitFiles(
                folder='ptb',
                train=('ptb.train.txt',),
                dev=('ptb.valid.txt',),
                test=('ptb.test.txt',),
            ),
            tokenizer=Words(vocab_size=10_000),
        ),
        optimizer=SGD(clip_norm=0.4),
        schedule=Constant(rate=4.0),
        batch=BatchConfig(
            tokens=ROWS * LENGTH,
            max_length=LENGTH,
            evaluation_rows=10,
            evaluation_max_length=400,
        ),
        train=TrainConfig(
            steps=100 * EPOCH,
            log_every=100,
            evaluate_every=EPOCH,
            checkpoint_every=EPOCH,
            plateau_patience=2,
            plateau_factor=0.5,
        ),
        decode=Decoding(method='sample', extra_length=30),
        published=Published(
            paper='Bai et al. 2018',
            result='perplexity 88.68 test',
            source='verified',
            parameters='13M',
            difference="the authors' code has 14,659,600 with one table for input and output and "
            '20,659,600 with two; 13M is nowhere explained',
        ),
    )
