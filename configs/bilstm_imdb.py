"""Sentiment of film reviews with two bidirectional LSTM layers, the size of Keras' example.

The example (20,000 words, vectors of 128, two Bi-LSTM of 64 in each direction, one sigmoid output;
Adam, batches of 32, two epochs) prints 0.827 and 0.843 on the 25,000 test reviews, and differs by
two points from run to run. It pads at the front and does not mask, so that the network runs over
the padding, and it keeps the *last* 200 words. Here padding is never seen, dropout and the number
of epochs are chosen on reviews of other films, and results are on 2,000 test reviews.

The variants change how the positions become one vector; `:dense` is one dense network over the
same 200 words. `:keras` is the example's recipe.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Imdb
from seqzoo.data.word_lists import TextConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.dense import DenseConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant, Cosine
from seqzoo.tasks.classification import TextClassification

EPOCH = 593  # updates


def experiment() -> Experiment:
    return Experiment(
        description='IMDb sentiment, two bidirectional LSTM layers, the last 200 words',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Tokens(embed_dim=128, token_dropout_rate=0.1),
                layers=RecurrentConfig(
                    cell=LSTM(hidden_dim=64),
                    num_layers=2,
                    directions='concatenated',
                    input_dropout_rate=0.3,
                    dropout_rate=0.3,
                ),
            ),
            pooling='max',
            num_outputs=1,
            dropout_rate=0.3,
        ),
        task=TextClassification(
            corpus=Imdb(), words=TextConfig(vocab_size=20_000, max_words=200, keep='last')
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=2e-3, warmup_steps=100, decay_steps=2 * EPOCH, final=1e-5),
        batch=BatchConfig(tokens=6400, max_length=200, buckets=(64, 96, 128, 160, 200)),
        train=TrainConfig(
            steps=2 * EPOCH, evaluate_every=EPOCH // 2, checkpoint_every=EPOCH, early_stopping=4
        ),
        published=Published(
            paper='Keras example',
            result='82.7-84.3 % of 25,000 test reviews',
            source='verified',
            parameters='2,757,761',
        ),
    )


VARIANTS = {
    'last': {'model.pooling': 'last'},
    'mean': {'model.pooling': 'mean'},
    'attention': {'model.pooling': 'attention', 'published.parameters': ''},
    'dense': {
        'published': Published(),
        'description': 'IMDb sentiment, one dense network over the last 200 words: the baseline',
        'model': DenseConfig(
            inputs=Tokens(embed_dim=32), max_length=200, hidden_dims=(64,), dropout_rate=0.3
        ),
    },
    'keras': {
        'description': "IMDb sentiment, the recipe of Keras' example but for its padding",
        'model.pooling': 'last',
        'model.dropout_rate': 0.0,
        'model.encoder.inputs.token_dropout_rate': 0.0,
        'model.encoder.layers.input_dropout_rate': 0.0,
        'model.encoder.layers.dropout_rate': 0.0,
        'schedule': Constant(rate=1e-3),
    },
}
