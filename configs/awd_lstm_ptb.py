"""AWD-LSTM on the Penn Treebank (Merity, Keskar, Socher 2017, arXiv:1708.02182), 24,221,600
parameters.

Three LSTM layers of 1150, 1150 and 400, the output tied to the embeddings of 400; half of the
recurrent connections dropped, 40 % of the input features and of the outputs, 25 % between layers,
each the same at every step, and every tenth word; SGD with a learning rate of 30. The values are
those that the authors' own code names for its published numbers.

Differences: batches are all 70 steps long and begin at another word in every epoch, where the paper
draws their length (each length is a compilation). Averaged SGD begins, as in the paper, when the
development loss has not fallen for five epochs; it is the mean of the snapshots that are written
from then on, one an epoch (`evaluate --average K`), and not of every update.

`:wikitext2` is the same network on WikiText-2, 33,556,078 parameters, whose training text is
yours to bring.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import SGD
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

STEPS, EPOCH = 70, 663  # of a row; updates


def experiment() -> Experiment:
    return Experiment(
        description='AWD-LSTM on the Penn Treebank by words, Merity et al. 2017',
        model=RecurrentLMConfig(
            embed_dim=400,
            layers=RecurrentConfig(
                cell=LSTM(hidden_dim=1150, biases=2, forget_bias=0.0, init_scale=1150**-0.5),
                num_layers=3,
                hidden_dims=(1150, 1150, 400),
                input_dropout_rate=0.4,
                dropout_rate=0.25,
                output_dropout_rate=0.4,
                variational=True,
                weight_drop_rate=0.5,
            ),
            embedding_dropout_rate=0.1,
            tie=True,
            init_scale=0.1,
            activation_weight=2.0,
            temporal_activation_weight=1.0,
        ),
        task=LanguageModeling(
            corpus=SplitFiles(
                folder='ptb',
                train=('ptb.train.txt',),
                dev=('ptb.valid.txt',),
                test=('ptb.test.txt',),
            ),
            tokenizer=Words(vocab_size=10_000),
            random_offset=True,
        ),
        optimizer=SGD(clip_norm=0.25, weight_decay=1.2e-6),
        schedule=Constant(rate=30.0),
        batch=BatchConfig(
            tokens=20 * STEPS, max_length=STEPS, evaluation_rows=1, evaluation_max_length=400
        ),
        train=TrainConfig(
            steps=500 * EPOCH,
            evaluate_every=EPOCH,
            checkpoint_every=EPOCH,
            snapshot_every=EPOCH,
            snapshot_patience=5,
            keep_snapshots=50,
        ),
        decode=Decoding(method='sample', extra_length=30),
        published=Published(
            paper='Merity et al. 2017',
            result='perplexity 60.7 validation, 58.8 test',
            source='secondary',
            parameters='24M',
        ),
    )


VARIANTS = {
    'wikitext2': {
        'description': 'AWD-LSTM on WikiText-2 by words, Merity et al. 2017',
        'model.layers.dropout_rate': 0.2,
        'task.corpus': SplitFiles(
            folder='wikitext2',
            train=('wiki.train.tokens',),
            dev=('wiki.valid.tokens',),
            test=('wiki.test.tokens',),
        ),
        'task.tokenizer.vocab_size': 33_278,
        'published.result': 'perplexity 68.6 validation, 65.8 test',
        'published.parameters': '33M',
        'published.difference': 'the paper cuts the last digits off instead of rounding them',
    },
}
