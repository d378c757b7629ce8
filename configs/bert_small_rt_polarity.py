"""Sentences about films, positive or negative, with the small BERT.

With `--pretrained R`, R being a run of `bert_small_wikitext`, it is fine-tuned; without, the same
model learns from these sentences alone. The part of ten that is tested on is `--task.corpus.fold`.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import RtPolarity
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.bert import BertConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.subword_labeling import SubwordClassification

EPOCH = 196  # updates, about


def experiment() -> Experiment:
    return Experiment(
        description='Sentence polarity (Pang and Lee 2005), a small BERT to be fine-tuned',
        model=LabelerConfig(
            encoder=BertConfig(max_length=256, num_layers=4, embed_dim=128, num_heads=4),
            dropout_rate=0.1,
        ),
        task=SubwordClassification(
            corpus=RtPolarity(), tokenizer=WordPieceConfig(vocab_size=4000), max_length=80
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(peak=3e-4, warmup_steps=EPOCH // 2, decay_steps=4 * EPOCH),
        batch=BatchConfig(tokens=2048, max_length=80, buckets=(24, 32, 40, 56, 80)),
        train=TrainConfig(steps=4 * EPOCH, evaluate_every=EPOCH, checkpoint_every=2 * EPOCH),
    )
