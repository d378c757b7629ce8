"""Copy memory by a temporal convolutional network, as Bai, Kolter, Koltun 2018 set it.

Ten symbols, a pause of 1,000 steps, the ten symbols again; eight blocks of 10 channels with windows
of 8, 12,530 parameters. Symbols enter as single numbers, as in the authors' code. Without memory
the cross-entropy is 10 ln 8 / (T + 20) a step, 0.0204 at T = 1000 and 0.0400 at `:t500`.

`:adam` learns T = 500 by Adam, with one-hot symbols in effect (a table of ten vectors).
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.memory_problems import CopyMemory
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.inputs import Ids, Tokens
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.tcn import TCNEncoderConfig, TCNLayers
from seqzoo.optimization.optimizers import Adam, RMSProp
from seqzoo.optimization.schedules import Constant, Cosine
from seqzoo.tasks.memory import CopyTask

ROWS = 32
STEPS = 50 * 100 + 1000  # the authors' fifty epochs of a hundred batches, and some more


def batch(pause: int) -> BatchConfig:
    length = pause + 20
    return BatchConfig(tokens=ROWS * length, max_length=length, fitted_buckets=1, length_multiple=1)


def experiment() -> Experiment:
    return Experiment(
        description='copy memory after a pause of 1000 steps, the TCN of Bai et al. 2018',
        model=LabelerConfig(
            encoder=TCNEncoderConfig(
                inputs=Ids(),
                layers=TCNLayers(window=8, num_layers=8, hidden_dim=10, dropout_rate=0.05),
            ),
            per='step',
        ),
        task=CopyTask(corpus=CopyMemory(length=1000, train_size=10_000)),
        optimizer=RMSProp(clip_norm=1.0),
        schedule=Constant(rate=5e-4),
        batch=batch(1000),
        train=TrainConfig(steps=STEPS, log_every=50, evaluate_every=250, checkpoint_every=500),
        published=Published(
            paper='Bai et al. 2018',
            result='cross-entropy 3.5e-5, T = 1000',
            source='verified',
            parameters='16K',
            difference='the paper contradicts itself (16K in table 1, 70K in table 4, 13K in '
            "figure 6); its authors' code has 12,530",
        ),
    )


SHORT = TCNLayers(window=6, num_layers=9, hidden_dim=10, dropout_rate=0.05)

VARIANTS = {
    't500': {
        'description': 'copy memory after a pause of 500 steps, the TCN of Bai et al. 2018',
        'model.encoder.layers': SHORT,
        'task.corpus.length': 500,
        'batch': batch(500),
        'published': Published(),
    },
    't2000': {
        'description': 'copy memory after a pause of 2000 steps, the TCN of Bai et al. 2018',
        'model.encoder.layers': TCNLayers(window=8, num_layers=9, hidden_dim=10, dropout_rate=0.05),
        'task.corpus.length': 2000,
        'batch': batch(2000),
        'published': Published(),
    },
    'adam': {
        'description': 'copy memory after a pause of 500 steps, a TCN learning by Adam',
        'model.encoder.inputs': Tokens(embed_dim=10),
        'model.encoder.layers': TCNLayers(window=6, num_layers=9, hidden_dim=10),
        'task.corpus.length': 500,
        'optimizer': Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        'schedule': Cosine(peak=4e-3, warmup_steps=50, decay_steps=2000),
        'batch': batch(500),
        'train.steps': 2000,
        'published': Published(),
    },
}
