"""Sentences about films, positive or negative, with a bidirectional LSTM.

The data is small (10,662 sentences, no official split) and most figures for it are averages over
ten-fold cross-validation with word vectors from elsewhere; this is one of ten parts
(`--task.corpus.fold`) and no other text. `:elmo` reads the small biLM of `elmo_small_wikitext`
beside the words, as it was trained: hand over its run with `--pretrained`, or it stays as it was
drawn. `:elmo_trained` trains it further. `:dense` is one dense network over the same words.
"""

from dataclasses import replace

from seqzoo.configuration import load_config
from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import RtPolarity
from seqzoo.data.word_lists import TextConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.dense import DenseConfig
from seqzoo.models.elmo import ElmoConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.classification import TextClassification

EPOCH = 119  # updates
TOKENS = Tokens(embed_dim=128, token_dropout_rate=0.1)
LAYERS = RecurrentConfig(
    cell=LSTM(hidden_dim=64), directions='concatenated', input_dropout_rate=0.5, variational=True
)
PRETRAINED = load_config('elmo_small_wikitext')


def experiment() -> Experiment:
    return Experiment(
        description='Sentence polarity (Pang and Lee 2005), a bidirectional LSTM',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(inputs=TOKENS, layers=LAYERS),
            pooling='max',
            dropout_rate=0.5,
        ),
        task=TextClassification(
            corpus=RtPolarity(),
            words=TextConfig(vocab_size=20_000, signs=True, max_words=60, keep='first'),
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=2e-3, warmup_steps=50, decay_steps=6 * EPOCH, final=1e-5),
        batch=BatchConfig(tokens=1920, max_length=60, buckets=(12, 20, 28, 40, 60)),
        train=TrainConfig(
            steps=6 * EPOCH, evaluate_every=EPOCH, checkpoint_every=3 * EPOCH, early_stopping=4
        ),
        published=Published(
            paper='Kim 2014',
            result='76.1 % without other text (CNN-rand), ten-fold',
            source='memory',
        ),
    )


ELMO = {
    'description': 'Sentence polarity (Pang and Lee 2005), a bidirectional LSTM over ELMo',
    'model.encoder': ElmoConfig(
        bilm=PRETRAINED.model.bilm, elmo_dropout_rate=0.5, inputs=TOKENS, layers=LAYERS
    ),
    'task.bytes': PRETRAINED.task.bytes,
}
VARIANTS = {
    'elmo': ELMO,
    'elmo_trained': {**ELMO, 'model.encoder': replace(ELMO['model.encoder'], frozen=False)},
    'dense': {
        'description': 'Sentence polarity, one dense network over the words: the baseline',
        'model': DenseConfig(
            inputs=Tokens(embed_dim=32), max_length=60, hidden_dims=(64,), dropout_rate=0.5
        ),
    },
}
