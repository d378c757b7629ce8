"""Four ways to spend the same operations between embedding and softmax, on the Penn Treebank.

    default     two LSTM layers of 512 units with projections of 128           (the dense network)
    :f_lstm     gates factorised through 96 columns, 1104 units       (Kuchaiev and Ginsburg 2017)
    :g_lstm     gates in four groups, 1536 units                      (the same)
    :moe        two LSTM layers of 256 units and 16 experts between them, 2 for each word
                                                                      (Shazeer et al. 2017)

The papers keep the width and save operations; here the operations are kept and the savings spent on
width, so that the perplexities may be compared. All four multiply 1.18 million numbers for a word
below the softmax, to 1 %. What a mixture multiplies is counted as it is computed in training: each
expert has places for a quarter more than its share of the words.

Optimizer, dropout, data and number of updates are the same for all, minutes on two cores. Neither
paper has figures on this text.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.factorised import FactorisedLSTM, GroupedLSTM
from seqzoo.layers.mixture import MixtureConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

STEPS, WIDTH = 2500, 128


def experiment() -> Experiment:
    return Experiment(
        description='Penn Treebank by words, a dense LSTM beside its improvements',
        model=RecurrentLMConfig(
            embed_dim=WIDTH,
            layers=RecurrentConfig(
                cell=LSTM(hidden_dim=512, projection_dim=WIDTH),
                num_layers=2,
                input_dropout_rate=0.2,
                dropout_rate=0.2,
                output_dropout_rate=0.2,
            ),
            init_scale=0.1,
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
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=200, decay_steps=STEPS),
        batch=BatchConfig(
            tokens=32 * 32, max_length=32, evaluation_rows=1, evaluation_max_length=400
        ),
        train=TrainConfig(steps=STEPS, evaluate_every=500, checkpoint_every=1000, log_every=100),
        decode=Decoding(method='sample', extra_length=30),
    )


VARIANTS = {
    'f_lstm': {
        'description': 'Penn Treebank by words, F-LSTM of the operations of the dense LSTM',
        'model.layers.cell': FactorisedLSTM(hidden_dim=1104, projection_dim=WIDTH, rank=96),
    },
    'g_lstm': {
        'description': 'Penn Treebank by words, G-LSTM of the operations of the dense LSTM',
        'model.layers.cell': GroupedLSTM(hidden_dim=1536, projection_dim=WIDTH, groups=4),
    },
    'moe': {
        'description': 'Penn Treebank by words, experts between LSTMs, as many operations',
        'model.layers.cell': LSTM(hidden_dim=256, projection_dim=WIDTH),
        'model.mixture': MixtureConfig(
            num_experts=16,
            top_k=2,
            mlp_dim=912,
            dispatch='capacity',
            evaluation_dispatch='dense',
            group='batch',
        ),
    },
}
