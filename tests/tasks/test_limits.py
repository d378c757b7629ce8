"""Options of a task and of decoding that cannot be are refused where they are set."""

import re

import pytest

from seqzoo.configuration import load_config
from seqzoo.errors import UserError


@pytest.mark.parametrize(
    ('word', 'said'),
    [
        ('--task.label-smoothing=1.5', 'label_smoothing is 1.5: a rate lies in [0, 1)'),
        ('--task.label-smoothing=-0.1', 'label_smoothing is -0.1'),
        ('--optimizer.beta1=2', 'optimizer: beta1 is 2.0'),
        ('--schedule.warmup-steps=0', 'schedule: warmup_steps is 0: give at least 1'),
        ('--decode.extra-length=-100', 'decode: extra_length is -100: give at least 0'),
        ('--decode.temperature=-1', 'decode: temperature is -1.0'),
        ('--decode.top-p=0', 'decode: top_p is 0.0'),
        ('--decode.top-k=0', 'decode: top_k is 0'),
        ('--decode.beams=0', 'decode: beams is 0: give at least 1'),
    ],
)
def test_a_translation_that_cannot_be_is_refused(word, said):
    with pytest.raises(UserError, match=re.escape(said)):
        load_config('transformer_tiny_text', [word])


@pytest.mark.parametrize('config', ['bilstm_rt_polarity', 'bilstm_tagger_ud_ewt'])
def test_labels_are_smoothed_by_a_share(config):
    with pytest.raises(UserError, match='label_smoothing is 1'):
        load_config(config, ['--task.label-smoothing=1'])
