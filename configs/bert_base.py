"""BERT base (Devlin et al. 2019, section 3 and appendix A.2), on text files of your own.

`--data-dir D` holds `train.txt`, `dev.txt` and `test.txt`, plain or `.gz`: a sentence a line, a
blank line between documents. The paper's text is the English Wikipedia and BooksCorpus, 3,300
million words. Nine tenths of its million updates read rows of 128 pieces; the last tenth, rows of
512, is `:long`, which goes on with the parameters: `--fork-from` the first run. There the learning
rate goes on from where it is, but the moments of Adam begin anew.

The paper's pieces are WordPiece, 30,522 of them in the published uncased models.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import SplitFiles
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.masked_language_modeling import MaskedLanguageModeling

ROWS = 256
SHORT, LONG = 900_000, 100_000  # updates
PEAK = 1e-4


def experiment() -> Experiment:
    return Experiment(
        description='BERT base on text files of your own',
        model=BertPretrainingConfig(encoder=BertConfig(vocab_multiple=128, dtype='bfloat16')),
        task=MaskedLanguageModeling(
            corpus=SplitFiles(), tokenizer=WordPieceConfig(vocab_size=30_522)
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(
            peak=PEAK,
            warmup_steps=10_000,
            decay_steps=SHORT,
            final=PEAK * LONG / (SHORT + LONG),
        ),
        batch=BatchConfig(tokens=ROWS * 128, max_length=128),
        train=TrainConfig(steps=SHORT, evaluate_every=10_000, checkpoint_every=10_000),
        decode=Decoding(beams=10),
        published=Published(
            paper='Devlin et al. 2019',
            result='perplexity of hidden tokens 3.99 (12 x 768)',
            source='verified',
            parameters='110M',
        ),
    )


VARIANTS = {
    'long': {
        'description': 'BERT base, the last tenth: rows of 512 pieces; --fork-from the first run',
        'batch.tokens': ROWS * 512,
        'batch.max_length': 512,
        'schedule': Linear(peak=PEAK * LONG / (SHORT + LONG), warmup_steps=0, decay_steps=LONG),
        'train.steps': LONG,
    },
}
