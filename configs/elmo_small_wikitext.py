"""A small ELMo on the validation part of WikiText-2, 200,000 words: minutes on two cores.

Two layers in each direction, 256 units projected to 96. The other configurations that read ELMo
(`bilstm_tagger_ud_ewt:elmo`, `bilstm_rt_polarity:elmo`) take this one's biLM: train it first and
hand its run to them, `seqzoo train bilstm_rt_polarity:elmo --pretrained RUN`.

`:war_and_peace` reads Tolstoy's novel too, 860,000 words together, `:ptb` 930,000 words of the Penn
Treebank (lower case, numbers as N), in fewer epochs.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile, GutenbergFile, SplitFiles, Together
from seqzoo.data.vocabularies import Words
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.layers.spelling import ByteSpelling
from seqzoo.models.elmo import BiLMConfig, BiLMPretrainingConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.bidirectional_language_modeling import BidirectionalLanguageModeling

BYTES = 20  # of a word, in all that reads this biLM
BILM = BiLMConfig(
    words=ByteSpelling(
        byte_dim=16, filters=((1, 16), (2, 32), (3, 64), (4, 64)), highway_layers=1, embed_dim=96
    ),
    layers=RecurrentConfig(
        cell=LSTM(hidden_dim=256, projection_dim=96, cell_clip=3.0, projection_clip=3.0),
        num_layers=2,
        residual_from=1,
        input_dropout_rate=0.2,
        dropout_rate=0.2,
        output_dropout_rate=0.2,
    ),
)
WIKITEXT = CutFile(folder='wikitext2', file='wiki.valid.raw')
ROWS, LENGTH = 32, 40


def steps(tokens: int, epochs: int) -> dict[str, int]:
    """How long to train on a text of so many words."""
    epoch = tokens // (ROWS * LENGTH)
    return {'steps': epochs * epoch, 'evaluate_every': epoch, 'checkpoint_every': epoch}


def schedule(tokens: int, epochs: int) -> Cosine:
    return Cosine(
        peak=3e-3, warmup_steps=100, decay_steps=epochs * (tokens // (ROWS * LENGTH)), final=3e-5
    )


def experiment() -> Experiment:
    return Experiment(
        description='A small ELMo on 200,000 words of WikiText-2',
        model=BiLMPretrainingConfig(bilm=BILM),
        task=BidirectionalLanguageModeling(
            corpus=WIKITEXT,
            tokenizer=Words(signs=True),
            predicted_words=5000,
            bytes=BYTES,
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=schedule(200_000, 6),
        batch=BatchConfig(tokens=ROWS * LENGTH, max_length=LENGTH),
        train=TrainConfig(**steps(200_000, 6)),
    )


VARIANTS = {
    'war_and_peace': {
        'description': 'A small ELMo on WikiText-2 and War and Peace',
        'task.corpus': Together(
            parts=(WIKITEXT, GutenbergFile(folder='war_and_peace', file='warandpeace.txt'))
        ),
        'schedule': schedule(860_000, 3),
        'train': TrainConfig(**steps(860_000, 3)),
    },
    'ptb': {
        'description': 'A small ELMo on the Penn Treebank',
        'task.corpus': SplitFiles(
            folder='ptb', train=('ptb.train.txt',), dev=('ptb.valid.txt',), test=('ptb.valid.txt',)
        ),
        'task.tokenizer': Words(),
        'schedule': schedule(930_000, 2),
        'train': TrainConfig(**steps(930_000, 2)),
    },
}
