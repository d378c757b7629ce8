"""GPT-1 fine-tuned on a table of your own: texts or pairs of texts, and a class for each.

The files are those of `bert_base_tsv`. Give `--pretrained R`: a run of `gpt1`, or one made from
imported weights. The recipe is the paper's (section 4.1): batches of 32, three epochs (the updates
are those of MNLI), a learning rate of 6.25e-5 after a warm-up of 0.2 %, and half of the loss of the
next tokens beside that of the classes.

`:single` reads one text a row.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Tsv
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Linear
from seqzoo.tasks.subword_labeling import SubwordClassification

STEPS = 36_816


def experiment() -> Experiment:
    return Experiment(
        description='GPT-1, fine-tuned on pairs of texts of your own',
        model=LabelerConfig(
            encoder=LanguageModelEncoderConfig(
                language_model=GPTConfig(
                    norm='post', max_length=512, residual_init_std=0.02, vocab_multiple=128
                )
            ),
            dropout_rate=0.1,
        ),
        task=SubwordClassification(
            corpus=Tsv(),
            tokenizer=TokenizerConfig(vocab_size=40_478),
            max_length=128,
            language_model_weight=0.5,
        ),
        optimizer=Adam(beta2=0.999, epsilon=1e-8, weight_decay=0.01, clip_norm=1.0),
        schedule=Linear(peak=6.25e-5, warmup_steps=STEPS // 500, decay_steps=STEPS),
        batch=BatchConfig(tokens=32 * 128, max_length=128, buckets=(128,)),
        train=TrainConfig(steps=STEPS, evaluate_every=2000, checkpoint_every=2000),
        published=Published(
            paper='Radford et al. 2018',
            result='75.1, the average of GLUE (Devlin et al. 2019, table 1)',
        ),
    )


VARIANTS = {
    'single': {
        'description': 'GPT-1, fine-tuned on texts of your own',
        'task.corpus.second': None,
    },
}
