"""The base Transformer of "Attention Is All You Need" on WMT 2014 English-German.

Sections 5.1 to 5.4 and 6.1 of Vaswani et al. 2017: a joint vocabulary of about 37,000 pieces,
batches of about 25,000 target tokens, Adam with beta2 = 0.98 and epsilon = 1e-9, 4,000 updates of
warm-up, dropout and label smoothing 0.1, 100,000 updates, the last five checkpoints averaged (the
paper writes one every ten minutes, 1,500 updates at its 0.4 s), beam 4 and alpha 0.6.

The budget of a batch counts padded positions; of 28,672 about 25,000 are tokens. The matrix
products are in bfloat16, as TPUs and GPUs want them; the paper's were in float32.

The test set is newstest2014, looked at once; `dev` is newstest2013. The 27.3 of the paper is
tokenised BLEU with compounds split and the quotes of the reference altered, up to 1.5 above
sacreBLEU on the same output; `seqzoo score` has both.

Here the tokenizer learns from a million lines, drawn evenly, where the paper says nothing of a
sample.

The variants are the rows of the paper's table 3, by its letters: one thing changed at a time.
`:table3` is its first row, this model without averaging on newstest2013. Evaluate all of them so:
`seqzoo evaluate R --split dev`, best or newest checkpoint, no `--average`. Their perplexity is that
of word pieces without label smoothing.

`:ten_thousand` sends a small corpus the same way, to see whether everything is in place: 10,000
tokenised pairs and newstest sets below `DATA/wmt`. Its BLEU means nothing.
"""

from typing import Any

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles, Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Noam
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation

PAPER = 'Vaswani et al. 2017'
VOCABULARY = (
    'the paper says "about 37000" pieces; its {parameters} is what {vocabulary} pieces have, and '
    'the ten counts that it prints of this family come out together only with 41,004 to 41,208'
)
CAPACITY = (
    'its training operations are hours times eight GPUs times an assumed 9.5 TFLOP/s, not counted'
)


def experiment() -> Experiment:
    return Experiment(
        description='The base Transformer on WMT14 English-German, by the paper',
        model=TransformerConfig(dtype='bfloat16'),
        task=Translation(
            corpus=Wmt14(pair='de-en'),
            source_language='en',
            target_language='de',
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=37_000, sample=1_000_000),
            label_smoothing=0.1,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.98, epsilon=1e-9),
        schedule=Noam(embed_dim=512, warmup_steps=4000),
        batch=BatchConfig(tokens=28_672, max_length=256, fitted_buckets=10),
        train=TrainConfig(
            steps=100_000,
            log_every=100,
            evaluate_every=1500,
            checkpoint_every=1500,
            snapshot_every=1500,
            keep_snapshots=5,
        ),
        decode=Decoding(method='beam', beams=4, length_penalty=0.6, extra_length=50),
        published=Published(
            paper=PAPER,
            result='27.3 BLEU (compound-split), newstest2014',
            source='verified',
            score='bleu_compound_split_quotes',
            parameters='65M',
            tokens=100_000 * 25_000,
            flops=3.3e18,
            difference=VOCABULARY,
            flops_difference=CAPACITY,
        ),
    )


def row(letter: str, what: str, result: str, parameters: str = '', **changes: Any) -> dict:
    """A row of table 3: newstest2013, one checkpoint, piece perplexity and BLEU."""
    perplexity, bleu = result.split()
    return {
        'description': f'Table 3 ({letter}) of Vaswani et al. 2017: {what}',
        'published': Published(
            paper=PAPER,
            result=f'perplexity {perplexity}, {bleu} BLEU (compound-split), newstest2013',
            source='verified',
            score='bleu_compound_split_quotes',
            parameters=parameters,
            tokens=100_000 * 25_000,
            difference=VOCABULARY if parameters else '',
        ),
        **{path.replace('__', '.'): value for path, value in changes.items()},
    }


VARIANTS = {
    'table3': row('base', 'the base model', '4.92 25.8', '65M'),
    'A1': row('A', '1 head of 512', '5.29 24.9', model__num_heads=1),
    'A2': row('A', '4 heads of 128', '5.00 25.5', model__num_heads=4),
    'A3': row('A', '16 heads of 32', '4.91 25.8', model__num_heads=16),
    'A4': row('A', '32 heads of 16', '5.01 25.4', model__num_heads=32),
    # Queries and keys alone are narrower: with narrower values too there would be 49M and 54M.
    'B1': row('B', 'keys of 16', '5.16 25.1', '58M', model__key_dim=16),
    'B2': row('B', 'keys of 32', '5.01 25.4', '60M', model__key_dim=32),
    'C1': row('C', '2 layers', '6.11 23.7', '36M', model__num_layers=2),
    'C2': row('C', '4 layers', '5.19 25.3', '50M', model__num_layers=4),
    'C3': row('C', '8 layers', '4.88 25.5', '80M', model__num_layers=8),
    'C4': row('C', '256 wide', '5.75 24.5', '28M', model__embed_dim=256, schedule__embed_dim=256),
    'C5': row(
        'C', '1,024 wide', '4.66 26.0', '168M', model__embed_dim=1024, schedule__embed_dim=1024
    ),
    'C6': row('C', 'feed-forward of 1,024', '5.12 25.4', '53M', model__mlp_dim=1024),
    'C7': row('C', 'feed-forward of 4,096', '4.75 26.2', '90M', model__mlp_dim=4096),
    'D1': row('D', 'no dropout', '5.77 24.6', model__dropout_rate=0.0),
    'D2': row('D', 'dropout 0.2', '4.95 25.5', model__dropout_rate=0.2),
    'D3': row('D', 'no label smoothing', '4.67 25.3', task__label_smoothing=0.0),
    'D4': row('D', 'label smoothing 0.2', '5.47 25.7', task__label_smoothing=0.2),
    'E': row(
        'E', 'learned positions', '4.92 25.7', model__positions='learned', model__max_length=1024
    ),
    'ten_thousand': {
        'description': 'The base Transformer on ten thousand pairs: the way of the data, not BLEU',
        'task.corpus': TextFiles(
            folder='wmt', train='opennmt10k.tok', dev='newstest2012_3000.tok', test='newstest2013'
        ),
        'task.tokenizer.vocab_size': 16_000,
        'task.tokenizer.sample': 15_000,
        'train.steps': 1000,
        'published': Published(),
    },
}
