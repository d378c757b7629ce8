"""GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").

Pre-norm layers, 1,024 learned positions, 50,257 tokens. The default has 124,439,808 parameters;
`:medium` 354,823,168, `:large` 774,030,080 and `:xl` 1,557,611,200. The paper prints 117M, 345M,
762M and 1542M, which are exactly the counts with GPT-1's vocabulary of 40,478.

WebText is not public: put a document a line into `webtext/train.txt`, `dev.txt` and `test.txt`
below the data directory. The paper names batches of 512 rows and nothing else of its training;
learning rate, schedule, weight decay and the number of updates are those of the open reproduction
nanoGPT (491,520 tokens an update, 600,000 updates), without dropout.

Documents follow each other in a row and see what stands before them; `--task.documents lines` keeps
them apart. BPE of bytes, which knows every text, is learned from five million of them.
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

STEPS = 600_000


def experiment() -> Experiment:
    return Experiment(
        description='GPT-2, 124M, on a document a line',
        model=GPTConfig(
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
            vocab_multiple=128,
            dtype='bfloat16',
            remat='dots',
        ),
        task=LanguageModeling(
            corpus=SplitFiles(folder='webtext'),
            tokenizer=ByteLevelBPE(vocab_size=50_257, sample=5_000_000),
            order='windows',
        ),
        optimizer=Adam(beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(peak=6e-4, warmup_steps=2000, decay_steps=STEPS, final=6e-5),
        batch=BatchConfig(tokens=480 * 1024, max_length=1024, evaluation_rows=64),
        train=TrainConfig(steps=STEPS, log_every=100, evaluate_every=5000, checkpoint_every=5000),
        decode=Decoding(method='sample', top_k=40, extra_length=200),
        published=Published(
            paper='Radford et al. 2019',
            result='perplexity 29.41 by word, WikiText-2, zero-shot',
            source='verified',
            parameters='117M',
            difference='the printed {parameters} is what {vocabulary} pieces have: all four counts '
            'of the paper come out with the 40,478 of GPT-1, where its vocabulary has 50,257',
        ),
    )


def size(
    name: str, printed: str, layers: int, width: int, heads: int, result: str
) -> dict[str, object]:
    return {
        'description': f'GPT-2, {name}, on a document a line',
        'model.num_layers': layers,
        'model.embed_dim': width,
        'model.num_heads': heads,
        'published.parameters': printed,
        'published.result': f'perplexity {result} by word, WikiText-2, zero-shot',
    }


VARIANTS = {
    'medium': size('355M', '345M', 24, 1024, 16, '22.76'),
    'large': size('774M', '762M', 36, 1280, 20, '19.93'),
    'xl': size('1.56B', '1542M', 48, 1600, 25, '18.34'),
}
