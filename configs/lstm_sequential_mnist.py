"""Handwritten digits read pixel by pixel, 784 steps (Le, Jaitly, Hinton 2015).

What is published for "an LSTM" lies between 87.2 and 98.9 % (permuted: 85.7 and 95.1 %), so compare
only within a paper. The permutation is not standardised: this one is drawn with seed 0. Training at
full length takes hours on two cores; `:rows` reads a row of 28 pixels at a time, a minute or two.
`:elman`, `:gru` and `:transformer` are other families of about as many parameters.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.mnist import Mnist
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Numbers
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.transformer_encoder import TransformerEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.classification import SeriesClassification

EPOCH = 430  # updates, of 128 images


def experiment() -> Experiment:
    return Experiment(
        description='Sequential MNIST, 784 pixels, an LSTM of 128',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Numbers(),
                layers=RecurrentConfig(cell=LSTM(hidden_dim=128), remat_steps=0),
            ),
            pooling='last',
        ),
        task=SeriesClassification(corpus=Mnist(), input_dim=1),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=1e-3, warmup_steps=200, decay_steps=60 * EPOCH, final=1e-5),
        batch=BatchConfig(tokens=128 * 784, max_length=784, buckets=(784,)),
        train=TrainConfig(
            steps=60 * EPOCH, evaluate_every=EPOCH, checkpoint_every=EPOCH, early_stopping=10
        ),
        published=Published(
            paper='Cooijmans et al. 2016',
            result='98.9 % (permuted 90.2 %), LSTM of 100',
            source='verified',
        ),
    )


VARIANTS = {
    'permuted': {
        'description': 'Permuted sequential MNIST, 784 pixels in a fixed random order',
        'task.corpus.permutation_seed': 0,
    },
    'rows': {
        'description': 'MNIST read row by row, 28 steps of 28 pixels',
        'model.encoder.layers.remat_steps': None,
        'task.corpus.step': 'row',
        'task.input_dim': 28,
        'batch': BatchConfig(tokens=128 * 28, max_length=28, buckets=(28,)),
        'schedule.decay_steps': 4 * EPOCH,
        'train.steps': 4 * EPOCH,
    },
    'elman': {
        'description': 'Sequential MNIST, 784 pixels, a simple recurrent network of 256',
        'model.encoder.layers.cell': Elman(hidden_dim=256),
    },
    'gru': {
        'description': 'Sequential MNIST, 784 pixels, a GRU of 148',
        'model.encoder.layers.cell': GRU(hidden_dim=148),
    },
    'transformer': {
        'description': 'Sequential MNIST, 784 pixels, a Transformer encoder of 64',
        'model.encoder': TransformerEncoderConfig(
            inputs=Numbers(), num_layers=2, embed_dim=64, mlp_dim=128, num_heads=4, remat='full'
        ),
        'model.pooling': 'mean',
    },
}
