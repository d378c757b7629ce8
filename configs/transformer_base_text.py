"""The base Transformer on parallel text of your own.

`--data-dir D` holds `train.en train.de dev.en dev.de test.en test.de`, plain or `.gz`, one sentence
a line; `--task.source-language` and `--task.target-language` name the endings.
"""

from seqzoo.configuration import load_config
from seqzoo.data.corpora import TextFiles
from seqzoo.experiment import Experiment, Published

CHANGES = {
    'description': 'The base Transformer on parallel text of your own',
    'task.corpus': TextFiles(),
    'task.tokenizer.vocab_size': 16_000,
    'model.dtype': 'float32',
    'published': Published(),
}


def experiment() -> Experiment:
    return load_config('transformer_base_wmt14_ende', CHANGES)
