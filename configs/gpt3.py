"""GPT-3 (Brown et al. 2020, "Language Models are Few-Shot Learners", arXiv:2005.14165), table 2.1.

GPT-2 with every other layer attending within a band, 2,048 positions and 300 billion tokens: Adam
(0.9, 0.95), weight decay 0.1, gradients clipped at 1, 375 million tokens of warm-up, a cosine to a
tenth at 260 billion. The default is the network of 174,604,259,328 parameters; the other seven are
variants.

Two rows of table 2.1 are misprinted. XL has 24 heads of 128 there, which is not its width of 2,048,
and would have 1,517,123,584 parameters; 13B has a width of 5,140, which is not 40 heads of 128.
Table D.1 counts 1,320 and 12,850 million: 16 heads, and a width of 5,120.

The text is yours: a document a line in `documents/train.txt`, `dev.txt` and `test.txt` below the
data directory. Documents follow each other in a row and see what stands before them, as in the
paper; `--task.documents lines` keeps them apart.

Differences: batches have their full size from the start (the paper begins with 32,000 tokens and
grows over the first 4 to 12 billion); the width of the bands, which is not published, is 256, and
the first layer of each pair is the dense one; the pieces are learned from five million documents of
yours, not GPT-2's.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.subwords import ByteLevelBPE
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

LENGTH = 2048


def batch(rows: int) -> BatchConfig:
    return BatchConfig(tokens=rows * LENGTH, max_length=LENGTH, evaluation_rows=64)


def schedule(rows: int, peak: float) -> Cosine:
    tokens = rows * LENGTH
    return Cosine(
        peak=peak,
        warmup_steps=375_000_000 // tokens,
        decay_steps=260_000_000_000 // tokens,
        final=peak / 10,
    )


def steps(rows: int) -> int:
    return 300_000_000_000 // (rows * LENGTH)


def experiment() -> Experiment:
    rows = 1536  # 3.1 million tokens
    return Experiment(
        description='GPT-3, 175B, on a document a line',
        model=GPTConfig(
            num_layers=96,
            embed_dim=12_288,
            num_heads=96,
            max_length=LENGTH,
            attention_bands=(0, 256),
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
            vocab_multiple=128,
            dtype='bfloat16',
            remat='full',
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='documents'),
            tokenizer=ByteLevelBPE(vocab_size=50_257, sample=5_000_000),
            order='windows',
        ),
        optimizer=Adam(beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0),
        schedule=schedule(rows, 0.6e-4),
        batch=batch(rows),
        train=TrainConfig(
            steps=steps(rows), log_every=100, evaluate_every=2000, checkpoint_every=2000
        ),
        decode=Decoding(method='sample', top_p=0.9, extra_length=200),
        published=Published(
            paper='Brown et al. 2020',
            result='perplexity 20.5, Penn Treebank, zero-shot',
            parameters='175.0B',
            tokens=300_000_000_000,
            difference='table D.1 of the same paper counts 174,600M',
        ),
    )


# Table 2.1, and where table D.1 of the same paper says otherwise. Of XL it misprints the heads too:
# 24 of 128 would be 3,072 wide instead of 2,048, and its count has 16.
PRINTED = {
    '125M': ('125M', ''),
    '356M': ('350M', 'table D.1 of the same paper counts 356M'),
    '760M': ('760M', ''),
    '1.3B': ('1.3B', ''),
    '2.7B': ('2.7B', ''),
    '6.7B': ('6.7B', ''),
    '13B': (
        '13.0B',
        'table 2.1 prints a width of 5140, which is not 40 heads of 128; table D.1 counts 12,850M, '
        'which a width of 5120 has',
    ),
}


def size(
    name: str, layers: int, width: int, heads: int, rows: int, peak: float
) -> dict[str, object]:
    return {
        'description': f'GPT-3, {name}, on a document a line',
        'model.num_layers': layers,
        'model.embed_dim': width,
        'model.num_heads': heads,
        'schedule': schedule(rows, peak),
        'batch': batch(rows),
        'train.steps': steps(rows),
        'published': Published(
            paper='Brown et al. 2020',
            source='verified',
            parameters=PRINTED[name][0],
            tokens=300_000_000_000,
            difference=PRINTED[name][1],
        ),
    }


VARIANTS = {
    'small': size('125M', 12, 768, 12, 256, 6.0e-4),
    'medium': size('356M', 24, 1024, 16, 256, 3.0e-4),
    'large': size('760M', 24, 1536, 16, 256, 2.5e-4),
    'xl': size('1.3B', 24, 2048, 16, 512, 2.0e-4),
    '2_7b': size('2.7B', 32, 2560, 32, 512, 1.6e-4),
    '6_7b': size('6.7B', 32, 4096, 32, 1024, 1.2e-4),
    '13b': size('13B', 40, 5120, 40, 1024, 1.0e-4),
}
