"""Tones and chirps that the project draws itself, by a small WaveNet conditioned on their kind.

A quarter of a second at 8 kHz each, `low`, `high`, `rising` or `falling`; two cycles of nine
layers, 1,024 samples in sight. Minutes on two cores:

    seqzoo train wavenet_tones --run runs/tones
    echo 'rising 0.5' | seqzoo predict runs/tones --output rising.wav
    seqzoo plot runs/tones

`:published` is the network of ibab's tensorflow-wavenet, 1,515,968 parameters and those of the
conditions, 5,117 samples in sight.
"""

from seqzoo.data.audio import Tones
from seqzoo.data.batching import BatchConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.wavenet import WaveNetConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.audio import AudioModeling
from seqzoo.tasks.base import Decoding

SMALL = WaveNetConfig(
    dilations=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    num_cycles=2,
    residual_dim=24,
    gate_dim=24,
    skip_dim=64,
    class_dim=8,
)


def experiment() -> Experiment:
    return Experiment(
        description='tones and chirps by a small WaveNet, minutes on two cores',
        model=SMALL,
        task=AudioModeling(corpus=Tones()),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=50, decay_steps=1500, final=1e-4),
        batch=BatchConfig(tokens=8 * 2000, max_length=2000, fitted_buckets=1, length_multiple=1),
        train=TrainConfig(
            steps=1500, max_minutes=20.0, log_every=25, evaluate_every=250, checkpoint_every=250
        ),
        decode=Decoding(method='sample', temperature=0.9, extra_length=2000),
    )


VARIANTS = {
    'published': {
        'description': 'tones and chirps by a WaveNet of 50 layers, as in tensorflow-wavenet',
        'model': WaveNetConfig(class_dim=32),
        'schedule': Cosine(peak=1e-3, warmup_steps=500, decay_steps=20_000, final=1e-5),
        'train.steps': 20_000,
        'train.max_minutes': None,
    },
}
