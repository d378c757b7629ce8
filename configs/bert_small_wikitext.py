"""A small BERT on an hour of reading: part of WikiText-2 and War and Peace, minutes on two cores.

An encyclopedia and a novel, 4.4 million characters: the validation part of WikiText-2 (raw), whose
articles are the documents, and the book without what Project Gutenberg wrote around it, whose
chapters are. Of each text the first 90 % are trained on. Fine-tuning: `bert_small_rt_polarity` and
`bert_small_tagger_ud_ewt`.

`:whole_word` hides whole words, `:masked` does without pairs.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.masked_text import Masking
from seqzoo.data.plain_text import CutFile, GutenbergFile, Together
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.masked_language_modeling import MaskedLanguageModeling

STEPS = 4000


def experiment() -> Experiment:
    return Experiment(
        description='A small BERT on part of WikiText-2 and War and Peace, minutes on two cores',
        model=BertPretrainingConfig(
            encoder=BertConfig(max_length=256, num_layers=4, embed_dim=128, num_heads=4)
        ),
        task=MaskedLanguageModeling(
            corpus=Together(
                parts=(
                    CutFile(folder='wikitext2', file='wiki.valid.raw'),
                    GutenbergFile(folder='war_and_peace', file='warandpeace.txt'),
                )
            ),
            tokenizer=WordPieceConfig(vocab_size=4000),
            document_start=r' = [^=].* = |CHAPTER [IVXLC]+',
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(peak=1e-3, warmup_steps=STEPS // 10, decay_steps=STEPS),
        batch=BatchConfig(tokens=16 * 128, max_length=128),
        train=TrainConfig(steps=STEPS, log_every=50, evaluate_every=1000, checkpoint_every=1000),
        decode=Decoding(beams=10),
    )


VARIANTS = {
    'whole_word': {
        'description': 'A small BERT that guesses whole words',
        'task.masking': Masking(whole_words=True),
    },
    'masked': {
        'description': 'A small BERT without pairs of sentences',
        'task.next_sentence': False,
        'model.next_sentence': False,
    },
}
