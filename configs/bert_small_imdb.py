"""Film reviews, positive or negative, with the small BERT: the first 128 pieces of each.

With `--pretrained R`, R being a run of `bert_small_wikitext`, it is fine-tuned; without, the same
model learns from the reviews alone.
"""

from seqzoo.configuration import load_config
from seqzoo.data.batching import BatchConfig
from seqzoo.data.labelled_texts import Imdb
from seqzoo.experiment import Experiment
from seqzoo.optimization.schedules import Linear

STEPS = 4200  # three epochs, about

CHANGES = {
    'description': 'Film reviews (Maas et al. 2011), a small BERT to be fine-tuned',
    'task.corpus': Imdb(),
    'task.max_length': 128,
    'schedule': Linear(peak=3e-4, warmup_steps=STEPS // 10, decay_steps=STEPS),
    'batch': BatchConfig(tokens=16 * 128, max_length=128, buckets=(96, 128)),
    'train.steps': STEPS,
    'train.evaluate_every': STEPS // 6,
    'train.checkpoint_every': STEPS // 6,
}


def experiment() -> Experiment:
    return load_config('bert_small_rt_polarity', CHANGES)
