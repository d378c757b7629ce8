"""The big Transformer of "Attention Is All You Need" on WMT 2014 English-German.

As `transformer_base_wmt14_ende`, with 1,024-wide layers, 16 heads, dropout 0.3, 300,000 updates,
and the last twenty checkpoints averaged (one every ten minutes, 600 updates at the paper's 1.0 s).
`:table3` is the last row of the paper's table 3: newstest2013, one checkpoint.
"""

from seqzoo.configuration import load_config
from seqzoo.experiment import Experiment, Published

VOCABULARY = (
    'the paper says "about 37000" pieces; its {parameters} is what {vocabulary} pieces have, fewer '
    'than the base model needs for its own'
)

CHANGES = {
    'description': 'The big Transformer on WMT14 English-German, by the paper',
    'model.embed_dim': 1024,
    'model.mlp_dim': 4096,
    'model.num_heads': 16,
    'model.dropout_rate': 0.3,
    'schedule.embed_dim': 1024,
    'train.steps': 300_000,
    'train.evaluate_every': 3000,
    'train.checkpoint_every': 1500,
    'train.snapshot_every': 600,
    'train.keep_snapshots': 20,
    'published.result': '28.4 BLEU (compound-split), newstest2014',
    'published.parameters': '213M',
    'published.tokens': 300_000 * 25_000,
    'published.flops': 2.3e19,
    'published.difference': VOCABULARY,
}


def experiment() -> Experiment:
    return load_config('transformer_base_wmt14_ende', CHANGES)


VARIANTS = {
    'table3': {
        'description': 'Table 3 (big) of Vaswani et al. 2017',
        'published': Published(
            paper='Vaswani et al. 2017',
            result='perplexity 4.33, 26.4 BLEU (compound-split), newstest2013',
            source='verified',
            score='bleu_compound_split_quotes',
            parameters='213M',
            tokens=300_000 * 25_000,
            difference=VOCABULARY,
        ),
    },
}
