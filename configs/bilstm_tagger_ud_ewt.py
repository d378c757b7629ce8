"""Universal parts of speech of the English Web Treebank with a deep bidirectional LSTM.

Words enter by number and by spelling. The treebank's own test file is no part of the data here:
results are on its dev file (`--split test`), and the checkpoint is chosen on a tenth of the
documents of the training file, which are set aside.

`:words` leaves the spelling out, `:char_lstm` reads it by a small LSTM, `:dense` is one dense
network over all words of a sentence. `:elmo` reads the small biLM of `elmo_small_wikitext` beside
the words, as it was trained: hand over its run with `--pretrained`, or it stays as it was drawn.
`:elmo_trained` trains it further.
"""

from dataclasses import replace

from seqzoo.configuration import load_config
from seqzoo.data.batching import BatchConfig
from seqzoo.data.tagged import UniversalDependencies
from seqzoo.data.word_lists import WordListConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.inputs import Spelling, Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.dense import DenseConfig
from seqzoo.models.elmo import ElmoConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.labeling import TokenInput
from seqzoo.tasks.tagging import Tagging

EPOCH = 110  # updates, about
SPELLING = Spelling(embed_dim=128, features=96, token_dropout_rate=0.1)
LAYERS = RecurrentConfig(
    cell=LSTM(hidden_dim=128),
    num_layers=2,
    directions='concatenated',
    input_dropout_rate=0.3,
    dropout_rate=0.3,
    variational=True,
)
PRETRAINED = load_config('elmo_small_wikitext')


def experiment() -> Experiment:
    return Experiment(
        description='Universal parts of speech of English, a deep bidirectional LSTM with spelling',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(inputs=SPELLING, layers=LAYERS),
            per='step',
            dropout_rate=0.3,
        ),
        task=Tagging(
            corpus=UniversalDependencies(dev=None, test='dev'),
            tokens=TokenInput(
                words=WordListConfig(vocab_size=10_000, min_count=2, lowercase=True), characters=16
            ),
        ),
        optimizer=Adam(beta2=0.99, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=100, decay_steps=10 * EPOCH, final=2e-5),
        batch=BatchConfig(
            tokens=2048,
            max_length=160,
            fitted_buckets=6,
            length_multiple=4,
            long_sentences='refuse',
        ),
        train=TrainConfig(
            steps=10 * EPOCH, evaluate_every=EPOCH, checkpoint_every=2 * EPOCH, early_stopping=4
        ),
    )


ELMO = {
    'description': 'Universal parts of speech of English, a deep bidirectional LSTM over ELMo',
    'model.encoder': ElmoConfig(
        bilm=PRETRAINED.model.bilm, elmo_dropout_rate=0.3, inputs=SPELLING, layers=LAYERS
    ),
    'task.tokens.bytes': PRETRAINED.task.bytes,
}
VARIANTS = {
    'elmo': ELMO,
    'elmo_trained': {**ELMO, 'model.encoder': replace(ELMO['model.encoder'], frozen=False)},
    'words': {
        'description': 'Universal parts of speech of English, words without their spelling',
        'model.encoder.inputs': Tokens(embed_dim=128, token_dropout_rate=0.1),
        'task.tokens.characters': 0,
    },
    'char_lstm': {'model.encoder.inputs.network': 'lstm'},
    'dense': {
        'description': 'Universal parts of speech, one dense network over a sentence: the baseline',
        'model': DenseConfig(
            inputs=Spelling(embed_dim=32, features=32),
            max_length=160,
            hidden_dims=(128,),
            per='step',
            dropout_rate=0.3,
        ),
    },
}
