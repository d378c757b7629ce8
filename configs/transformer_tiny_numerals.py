"""The demonstration: a small Transformer learns to write English number words in German, in two
minutes on two cores.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Numerals
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def experiment() -> Experiment:
    return Experiment(
        description='English number words to German: the embedded corpus, two minutes on two cores',
        model=TransformerConfig(
            num_layers=2, embed_dim=128, mlp_dim=512, num_heads=4, norm='pre', dropout_rate=0.0
        ),
        task=Translation(
            corpus=Numerals(train_size=100_000),
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=160),
            label_smoothing=0.0,  # there is one right answer
            bleu_tokenizer='char',  # a German numeral is a single word: it has no word 4-grams
        ),
        optimizer=Adam(),
        schedule=Cosine(peak=2e-3, warmup_steps=100, decay_steps=450),
        batch=BatchConfig(tokens=2048, max_length=40, fitted_buckets=4, length_multiple=4),
        train=TrainConfig(steps=450, log_every=25, evaluate_every=225, checkpoint_every=225),
        decode=Decoding(method='beam', beams=4, rows=128),
    )
