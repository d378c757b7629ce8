"""Tiny Shakespeare by characters with the ByteNet decoder (Kalchbrenner et al. 2016, section 5).

Multiplicative units, windows of 3, dilations 1, 2, 4, 8, 16 twice, 64 hidden channels: 0.7 million
parameters, 125 characters in sight, on the text, the batches and the budget of
`lstm_char_shakespeare:ten_minutes`. `:paper` is the network of the paper, 30 blocks of 512 hidden
channels, at the learning rate, the dropout and the lengths that it has for enwik8, which reaches
1.31 bits per character there; rows go on from the histories of the rows before, where the paper
reads 500 characters to predict the last 400.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.dilated_blocks import DilatedConfig
from seqzoo.models.bytenet import ByteNetLMConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant, Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        description='Tiny Shakespeare by characters, a small ByteNet decoder, on two cores',
        model=ByteNetLMConfig(
            layers=DilatedConfig(
                hidden_dim=64, num_sets=2, unit='multiplicative', dropout_rate=0.1
            ),
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='tiny_shakespeare', file='input.txt', test_share=0.0),
            tokenizer=Characters(vocab_size=65),
            random_offset=True,
        ),
        optimizer=Adam(clip_norm=1.0),
        schedule=Cosine(peak=3e-3, warmup_steps=100, decay_steps=3000),
        batch=BatchConfig(tokens=50 * 64, max_length=64),
        train=TrainConfig(steps=3000, log_every=100, evaluate_every=500, checkpoint_every=500),
        decode=Decoding(method='sample', temperature=0.8, extra_length=300),
    )


VARIANTS = {
    'paper': {
        'description': 'Tiny Shakespeare by characters, the ByteNet decoder of the paper',
        'model': ByteNetLMConfig(dtype='bfloat16'),
        'optimizer': Adam(beta2=0.999, epsilon=1e-8),
        'schedule': Constant(rate=3e-4),
        'batch': BatchConfig(tokens=32 * 400, max_length=400),
        'train.steps': 20_000,
        'published': Published(
            paper='Kalchbrenner et al. 2016',
            result='1.31 bits per character, enwik8',
            source='secondary',
        ),
    },
}
