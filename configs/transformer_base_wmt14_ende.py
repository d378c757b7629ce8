"""The base Transformer of "Attention Is All You Need" on WMT 2014 English-German.

Sections 5.1 to 5.4 and 6.1 of Vaswani et al. 2017: a joint vocabulary of about 37,000 pieces,
batches of about 25,000 target tokens, Adam with beta2 = 0.98 and epsilon = 1e-9, 4,000 updates of
warm-up, dropout and label smoothing 0.1, 100,000 updates, the last five checkpoints averaged (the
paper writes one every ten minutes, 1,500 updates at its 0.4 s), beam 4 and alpha 0.6.

The budget of a batch counts padded positions; of 28,672 about 25,000 are tokens. The matrix
products are in bfloat16, as TPUs and GPUs want them; the paper's were in float32.

The test set is newstest2014, looked at once; `dev` is newstest2013. The 27.3 of the paper is
tokenised BLEU with compounds split, which runs about 0.7 above sacreBLEU on the same output.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Noam
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


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
            paper='Vaswani et al. 2017', result='27.3 BLEU (compound-split), newstest2014'
        ),
    )
