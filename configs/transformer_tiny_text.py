"""A small Transformer on parallel text of your own, for a laptop: two million parameters.

`--data-dir D` holds `train.en train.de dev.en dev.de test.en test.de`, plain or `.gz`, one sentence
a line; `--task.source-language` and `--task.target-language` name the endings. A corpus of a few
hundred sentences needs a smaller `--task.tokenizer.vocab-size`; you are told the largest.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import InverseSquareRoot
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def experiment() -> Experiment:
    return Experiment(
        description='A small Transformer on parallel text of your own',
        model=TransformerConfig(
            num_layers=4, embed_dim=128, mlp_dim=256, num_heads=4, norm='pre', dropout_rate=0.1
        ),
        task=Translation(
            corpus=TextFiles(), tokenizer=TokenizerConfig(kind='bpe', vocab_size=4000)
        ),
        optimizer=Adam(clip_norm=1.0),
        schedule=InverseSquareRoot(peak=0.004, warmup_steps=800),
        batch=BatchConfig(tokens=2048, max_length=128, fitted_buckets=8, length_multiple=4),
        train=TrainConfig(
            steps=10_000,
            log_every=50,
            evaluate_every=500,
            early_stopping=10,
            checkpoint_every=500,
            snapshot_every=100,
            keep_snapshots=10,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=0.6),
    )
