"""GPT-NeoX-20B (Black et al. 2022, arXiv:2204.06745), 20,554,567,680 parameters.

44 layers of 6,144, 64 heads, both sublayers in parallel, a rotary embedding on a quarter of each
head, exact gelu, and a matrix of its own before the softmax. 150,000 updates of 1,538 rows of 2,048
tokens of the Pile; Adam (0.9, 0.95) with 0.97e-4 after a hundredth of warm-up, a cosine to a tenth,
weight decay 0.01, gradients clipped at 1. Kernels start with a standard deviation of sqrt(2 / (5
d)), those that write into the residual stream with 2 / (44 sqrt(d)).

The text is yours: a document a line in `pile/train.txt`, `dev.txt` and `test.txt` below the data
directory. The stored vocabulary of 50,432 is counted, as the authors' checkpoint has it.

Differences: 1,536 rows, which more meshes divide; bfloat16 in place of float16 with loss scaling;
BPE of bytes is learned from five million documents of yours, and knows no runs of spaces.
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

STEPS, ROWS, LENGTH = 150_000, 1536, 2048
LAYERS, WIDTH = 44, 6144


def experiment() -> Experiment:
    return Experiment(
        description='GPT-NeoX-20B on a document a line',
        model=GPTConfig(
            num_layers=LAYERS,
            embed_dim=WIDTH,
            num_heads=64,
            max_length=LENGTH,
            positions='rotary',
            rotary_share=0.25,
            parallel_residual=True,
            mlp_activation='gelu',
            tie=False,
            init_std=(2 / (5 * WIDTH)) ** 0.5,
            residual_init_std=2 / (LAYERS * WIDTH**0.5),
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
            dtype='bfloat16',
            remat='full',
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='pile'),
            tokenizer=ByteLevelBPE(vocab_size=50_432, sample=5_000_000),
            order='windows',
        ),
        optimizer=Adam(beta2=0.95, epsilon=1e-8, weight_decay=0.01, clip_norm=1.0),
        schedule=Cosine(peak=0.97e-4, warmup_steps=STEPS // 100, decay_steps=STEPS, final=0.97e-5),
        batch=BatchConfig(tokens=ROWS * LENGTH, max_length=LENGTH, evaluation_rows=64),
        train=TrainConfig(steps=STEPS, log_every=100, evaluate_every=1000, checkpoint_every=500),
        decode=Decoding(method='sample', top_p=0.9, extra_length=200),
        published=Published(paper='Black et al. 2022', result='72.0 % of LAMBADA, zero-shot'),
    )
