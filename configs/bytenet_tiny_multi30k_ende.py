"""Multi30k English-German with a small ByteNet, under two million parameters.

Data, vocabulary, batches and scorer are those of `transformer_tiny_multi30k_ende:twenty_minutes`
and of `recurrent_tiny_multi30k_ende`, so that one table compares networks and nothing else. Blocks
of 96 hidden channels, dilations 1, 2, 4, 8 twice on each side; a source has as many places as it
has pieces and four more, from which the target goes on by itself if it must. Nothing is attended
to: what a target piece needs must lie in the column of its own place or come along the dilations.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.dilated_blocks import DilatedConfig
from seqzoo.models.bytenet import ByteNetConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation

LAYERS = DilatedConfig(hidden_dim=96, dilations=(1, 2, 4, 8), num_sets=2, dropout_rate=0.1)


def experiment() -> Experiment:
    return Experiment(
        description='Multi30k English-German, a small ByteNet, on two cores',
        model=ByteNetConfig(
            encoder=LAYERS,
            decoder=LAYERS,
            unfold_factor=1.0,
            unfold_extra=4.0,
            dropout_rate=0.1,
            tie='all',
        ),
        task=Translation(
            corpus=TextFiles(folder='multi30k', dev='val', test='test_2016_flickr'),
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=4000),
            label_smoothing=0.1,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.98, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=0.003, warmup_steps=300, decay_steps=3000, final=1e-4),
        batch=BatchConfig(tokens=2048, max_length=64, fitted_buckets=6, length_multiple=4),
        train=TrainConfig(
            steps=3000,
            max_minutes=20.0,
            evaluate_every=500,
            checkpoint_every=500,
            snapshot_every=100,
            keep_snapshots=100,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=1.0),
    )
