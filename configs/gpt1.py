"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training").

Twelve post-norm layers of 768, 12 heads, 512 learned positions, 116,534,784 parameters. Adam with
2.5e-4 after 2,000 updates of warm-up, then a cosine to zero; batches of 64 rows of 512 tokens; 100
epochs of BooksCorpus, which is not public any more: put books into `books/train.txt`, `dev.txt` and
`test.txt` below the data directory. Their token perplexity was 18.4.

Differences: SentencePiece's BPE with as many pieces in place of spaCy with 40,000 merges and 478
characters; the number of updates is that of BERT's account of it, one million of 32,000 words, as
an epoch of your books is another.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

STEPS = 1_000_000


def experiment() -> Experiment:
    return Experiment(
        description='GPT-1 on books',
        model=GPTConfig(
            norm='post', max_length=512, init_std=0.02, residual_init_std=0.02, vocab_multiple=128
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='books'),
            tokenizer=TokenizerConfig(vocab_size=40_478, sample=5_000_000),
            order='windows',
            random_offset=True,
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, weight_decay=0.01, clip_norm=1.0),
        schedule=Cosine(peak=2.5e-4, warmup_steps=2000, decay_steps=STEPS),
        batch=BatchConfig(tokens=64 * 512, max_length=512),
        train=TrainConfig(steps=STEPS, log_every=100, evaluate_every=5000, checkpoint_every=5000),
        decode=Decoding(method='sample', top_k=40, extra_length=100),
        published=Published(
            paper='Radford et al. 2018', result='perplexity 18.4 by token, BooksCorpus'
        ),
    )
