"""Universal parts of speech of the English Web Treebank with the small BERT.

With `--pretrained R`, R being a run of `bert_small_wikitext`, it is fine-tuned; without, the same
model learns from the treebank alone. What is dev and what is test: see `bilstm_tagger_ud_ewt`.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.tagged import UniversalDependencies
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.bert import BertConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.subword_labeling import SubwordTagging

EPOCH = 205  # updates, about


def experiment() -> Experiment:
    return Experiment(
        description='Universal parts of speech of English, a small BERT to be fine-tuned',
        model=LabelerConfig(
            encoder=BertConfig(
                max_length=256, num_layers=4, embed_dim=128, num_heads=4, pooler=False
            ),
            per='step',
            dropout_rate=0.1,
        ),
        task=SubwordTagging(
            corpus=UniversalDependencies(dev=None, test='dev'),
            tokenizer=WordPieceConfig(vocab_size=4000),
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(peak=1e-3, warmup_steps=EPOCH // 2, decay_steps=6 * EPOCH),
        batch=BatchConfig(
            tokens=2048,
            max_length=256,
            fitted_buckets=6,
            length_multiple=4,
            long_sentences='refuse',
        ),
        train=TrainConfig(steps=6 * EPOCH, evaluate_every=EPOCH, checkpoint_every=2 * EPOCH),
    )
