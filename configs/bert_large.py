"""BERT large (Devlin et al. 2019): `bert_base` with 24 layers, 1,024 wide, 16 heads.

Layers are computed again in the backward pass: one device of 16 GB does not hold their activations.
"""

import bert_base

from seqzoo.configuration import load_config
from seqzoo.experiment import Experiment, Published

CHANGES = {
    'description': 'BERT large on text files of your own',
    'model.encoder.num_layers': 24,
    'model.encoder.embed_dim': 1024,
    'model.encoder.num_heads': 16,
    'model.encoder.remat': 'dots',
    'published': Published(
        paper='Devlin et al. 2019',
        result='perplexity of hidden tokens 3.23 (24 x 1024)',
        source='verified',
        parameters='340M',
        difference='the paper rounds up to tens of millions: its published model has 335,141,888, '
        'and 336,226,108 with the heads that are trained here',
    ),
}


def experiment() -> Experiment:
    return load_config('bert_base', CHANGES)


VARIANTS = {
    'long': {
        **bert_base.VARIANTS['long'],
        'description': 'BERT large, the last tenth: rows of 512 pieces; --fork-from the first run',
    },
}
