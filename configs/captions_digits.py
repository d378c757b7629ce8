"""Captions of scenes composed from handwritten digits: 'a seven left of a three'.

The captions of the test split are pairs of digits that training never shows. The configuration
attends to the image (Xu et al. 2015); `:show_and_tell` reads it once (Vinyals et al. 2015).
`--data-dir` holds `mnist/`; `seqzoo data prepare` fetches it.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.digit_scenes import DigitScenes
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.captioner import CaptionerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.captioning import Captioning


def experiment() -> Experiment:
    return Experiment(
        description='captions of digit scenes, attending: CNN and LSTM, ten minutes on two cores',
        model=CaptionerConfig(channels=(32, 64, 96, 96), strides=(2, 2, 1, 1), dropout_rate=0.2),
        task=Captioning(corpus=DigitScenes(train_size=100_000)),
        optimizer=Adam(clip_norm=1.0),
        schedule=Cosine(peak=2e-3, warmup_steps=100, decay_steps=6000),
        batch=BatchConfig(tokens=512, max_length=8, buckets=(8,)),
        train=TrainConfig(steps=6000, log_every=50, evaluate_every=1000, checkpoint_every=1000),
        decode=Decoding(method='beam', beams=4, extra_length=11, rows=128),
    )


VARIANTS = {
    'show_and_tell': {
        'description': 'captions of digit scenes without attention: the image is read once',
        'model.attention': 'none',
    },
}
