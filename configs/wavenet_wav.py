"""A WaveNet on WAV files of one's own, as in ibab's tensorflow-wavenet: 50 layers at 16 kHz.

Files lie in DATA_DIR/wav, or in one folder there for each speaker or kind of sound, which the
network is then told (1,515,968 parameters without what tells it, 5,117 samples in sight). Any
sampling rate, 8 to 32 bits, any number of channels. Six seconds of one voice an update; the
authors' learning rate of 1e-3. `:small` is the network of `wavenet_tones`, at 8 kHz.
"""

from seqzoo.data.audio import WavFiles
from seqzoo.data.batching import BatchConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.wavenet import WaveNetConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.audio import AudioModeling
from seqzoo.tasks.base import Decoding


def experiment() -> Experiment:
    return Experiment(
        description='WAV files of your own by the WaveNet of tensorflow-wavenet, 16 kHz',
        model=WaveNetConfig(class_dim=32),
        task=AudioModeling(corpus=WavFiles(folder='wav', rate=16_000, seconds=1.0)),
        optimizer=Adam(beta2=0.999, epsilon=1e-4),
        schedule=Constant(rate=1e-3),
        batch=BatchConfig(
            tokens=6 * 16_000, max_length=16_000, fitted_buckets=2, length_multiple=1
        ),
        train=TrainConfig(steps=100_000, log_every=50, evaluate_every=1000, checkpoint_every=1000),
        decode=Decoding(method='sample', extra_length=16_000),
    )


VARIANTS = {
    'small': {
        'description': 'WAV files of your own by a small WaveNet, 8 kHz',
        'model': WaveNetConfig(
            dilations=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            num_cycles=2,
            residual_dim=24,
            gate_dim=24,
            skip_dim=64,
            class_dim=8,
        ),
        'task.corpus': WavFiles(folder='wav', rate=8000, seconds=0.25),
        'batch': BatchConfig(tokens=8 * 2000, max_length=2000, fitted_buckets=2, length_multiple=1),
        'schedule.rate': 2e-3,
        'train.steps': 3000,
        'decode.extra_length': 8000,
    },
}
