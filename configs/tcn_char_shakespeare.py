"""Tiny Shakespeare by characters with a temporal convolutional network, minutes on two cores.

Four blocks of 160 channels with windows of 3, 61 characters in sight, on the text, the batches and
the budget of `lstm_char_shakespeare:ten_minutes`, so that one table compares networks: 0.5 million
parameters against 0.9. Each row of a batch goes on where the row of the batch before stopped: the
convolutions keep their last inputs.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.tcn import TCNConfig, TCNLayers
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        description='Tiny Shakespeare by characters, a TCN, minutes on two cores',
        model=TCNConfig(
            embed_dim=96,
            layers=TCNLayers(
                num_layers=4, hidden_dim=160, output_dim=96, window=3, dropout_rate=0.1
            ),
            embedding_dropout_rate=0.0,
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='tiny_shakespeare', file='input.txt', test_share=0.0),
            tokenizer=Characters(vocab_size=65),
            random_offset=True,
        ),
        optimizer=Adam(clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=100, decay_steps=3000),
        batch=BatchConfig(tokens=50 * 64, max_length=64),
        train=TrainConfig(steps=3000, log_every=100, evaluate_every=500, checkpoint_every=500),
        decode=Decoding(method='sample', temperature=0.8, extra_length=300),
    )
