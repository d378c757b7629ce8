"""ELMo as Peters et al. 2018 trained it on the One Billion Words corpus (arXiv:1802.05365).

Two layers in each direction, 4,096 units projected to 512, words by 2,048 filters over their bytes:
93,600,864 parameters, and 407,050,623 of the softmax over 793,471 words. 128 rows of 20 words on
each of three devices, Adagrad at 0.2, gradients clipped at 10, ten epochs of 768,648,884 words.

Differences: rows begin anew in either direction, and are longer for it (see `models.elmo`); the
softmax is over all words, not over 8,192 drawn ones, and laid over the mesh axis `tensor`.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.elmo import BiLMConfig, BiLMPretrainingConfig
from seqzoo.optimization.optimizers import Adagrad
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.bidirectional_language_modeling import BidirectionalLanguageModeling

ROWS, LENGTH, TOKENS = 128, 60, 768_648_884  # of a batch; of the training text


def experiment() -> Experiment:
    return Experiment(
        description='ELMo on One Billion Words, Peters et al. 2018',
        model=BiLMPretrainingConfig(bilm=BiLMConfig(dtype='bfloat16'), vocab_multiple=128),
        task=BidirectionalLanguageModeling(
            corpus=SplitFiles(
                folder='lm1b', train=('train.txt',), dev=('dev.txt',), test=('test.txt',)
            ),
            tokenizer=Words(),
            predicted_words=793_471,
        ),
        optimizer=Adagrad(initial=1.0, clip_norm=10.0),
        schedule=Constant(rate=0.2),
        batch=BatchConfig(tokens=ROWS * LENGTH, max_length=LENGTH),
        train=TrainConfig(steps=10 * (TOKENS // (ROWS * LENGTH)), log_every=100),
        published=Published(
            paper='Peters et al. 2018',
            result='perplexity 39.7, mean of both directions',
            source='memory',
            parameters='93.6M',
            left_out=('softmax/*', 'logit_bias'),
        ),
    )
