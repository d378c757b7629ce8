"""BERT base fine-tuned on a table of your own: texts or pairs of texts, and a class for each.

`--data-dir D` holds `train.tsv`, `dev.tsv` and `test.tsv`, whose first lines name their columns;
`--task.corpus.first`, `.second` and `.label` say which are meant, `--task.corpus.labels` which
classes there are. Give `--pretrained R`: a run of `bert_base`, or one made from imported weights.
The recipe is the paper's (section 4.1): rows of 128, batches of 32, three epochs (the updates are
those of MNLI), a learning rate from 2e-5 to 5e-5.

`:single` reads one text a row, `:large` is BERT large.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Tsv
from seqzoo.data.wordpiece import WordPieceConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.bert import BertConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.subword_labeling import SubwordClassification

STEPS = 36_816


def experiment() -> Experiment:
    return Experiment(
        description='BERT base, fine-tuned on pairs of texts of your own',
        model=LabelerConfig(encoder=BertConfig(), dropout_rate=0.1),
        task=SubwordClassification(
            corpus=Tsv(), tokenizer=WordPieceConfig(vocab_size=30_522), max_length=128
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-6, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(peak=3e-5, warmup_steps=STEPS // 10, decay_steps=STEPS),
        batch=BatchConfig(tokens=32 * 128, max_length=128, buckets=(128,)),
        train=TrainConfig(steps=STEPS, evaluate_every=2000, checkpoint_every=2000),
        published=Published(
            paper='Devlin et al. 2019', result='84.6 % MNLI (matched), 93.5 % SST-2'
        ),
    )


VARIANTS = {
    'single': {
        'description': 'BERT base, fine-tuned on texts of your own',
        'task.corpus.second': None,
    },
    'large': {
        'description': 'BERT large, fine-tuned on pairs of texts of your own',
        'model.encoder.num_layers': 24,
        'model.encoder.embed_dim': 1024,
        'model.encoder.num_heads': 16,
        'published': Published(
            paper='Devlin et al. 2019', result='86.7 % MNLI (matched), 94.9 % SST-2'
        ),
    },
}
