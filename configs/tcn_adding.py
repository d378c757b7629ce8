"""The adding problem by a temporal convolutional network, as Bai, Kolter, Koltun 2018 set it.

Two marked numbers among 600 steps, eight blocks of 24 channels with windows of 8: 70,369
parameters, 3,571 steps in sight. `:t200` and `:t400` are the paper's shorter ones. Always saying 1
gives a mean square error of 1/6; on two cores T = 200 takes minutes to 1e-3, T = 600 an hour.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.memory_problems import Adding
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Numbers
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.tcn import TCNEncoderConfig, TCNLayers
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.memory import AddingTask

ROWS = 32
EPOCH = 50_000 // ROWS


def batch(length: int) -> BatchConfig:
    return BatchConfig(tokens=ROWS * length, max_length=length, fitted_buckets=1, length_multiple=1)


def experiment() -> Experiment:
    return Experiment(
        description='the adding problem over 600 steps, the TCN of Bai et al. 2018',
        model=LabelerConfig(
            encoder=TCNEncoderConfig(
                inputs=Numbers(), layers=TCNLayers(window=8, num_layers=8, hidden_dim=24)
            ),
            pooling='last',
        ),
        task=AddingTask(corpus=Adding(length=600)),
        optimizer=Adam(beta2=0.999, epsilon=1e-8),
        schedule=Constant(rate=4e-3),
        batch=batch(600),
        train=TrainConfig(steps=10 * EPOCH, log_every=50, evaluate_every=250, checkpoint_every=500),
        published=Published(
            paper='Bai et al. 2018',
            result='MSE 5.8e-5 over 600 steps',
            source='verified',
            parameters='70K',
        ),
    )


VARIANTS = {
    't200': {
        'description': 'the adding problem over 200 steps, the TCN of Bai et al. 2018',
        'model.encoder.layers': TCNLayers(window=6, num_layers=7, hidden_dim=27),
        'task.corpus.length': 200,
        'batch': batch(200),
        'published': Published(),
    },
    't400': {
        'description': 'the adding problem over 400 steps, the TCN of Bai et al. 2018',
        'model.encoder.layers': TCNLayers(window=7, num_layers=7, hidden_dim=27),
        'task.corpus.length': 400,
        'batch': batch(400),
        'published': Published(),
    },
}
