"""What a batch may be as long as: known of every model before it runs."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from seqzoo.data.batching import BatchConfig, BatchShape
from seqzoo.data.columns import Columns, Ragged
from seqzoo.errors import ConfigError, UserError
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.models.conv_seq2seq import ConvS2SConfig
from seqzoo.models.dense import DenseConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.models.tcn import TCNEncoderConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.tasks.classification import TextClassification
from seqzoo.tasks.column_task import PreparedColumns
from seqzoo.tasks.language_modeling import LanguageModeling
from seqzoo.tasks.translation import Translation
from seqzoo.training.lengths import refuse_long_rows

LEARNED = dataclasses.replace(TransformerConfig.tiny(), positions='learned', max_length=12)
LIMITED = [
    (LEARNED, 12),
    (ConvS2SConfig.tiny(), 16),
    (GPTConfig.tiny(), 16),
    (BertConfig.tiny(), 16),
    (BertPretrainingConfig.tiny(), 16),
    (LabelerConfig(encoder=BertConfig.tiny(), num_outputs=2), 16),
    (LanguageModelEncoderConfig(language_model=GPTConfig.tiny()), 16),
    (DenseConfig.tiny(), 8),
]
UNLIMITED = [
    TransformerConfig.tiny(),
    dataclasses.replace(GPTConfig.tiny(), positions='rotary'),
    TCNEncoderConfig.tiny(),
]


@pytest.mark.parametrize(('config', 'limit'), LIMITED, ids=lambda x: type(x).__name__)
def test_a_model_reads_rows_as_long_as_it_says_and_no_longer(config, limit):
    assert config.longest_row == limit
    sides = 2 if hasattr(config, 'source_vocab_size') or isinstance(config, ConvS2SConfig) else 1

    def init(length):
        inputs = [jnp.zeros((1, length), jnp.int32)] * sides
        return jax.eval_shape(config.build().init, jax.random.key(0), *inputs)

    init(limit)
    with pytest.raises(ConfigError, match='max_length'):
        init(limit + 1)


@pytest.mark.parametrize('config', UNLIMITED, ids=lambda config: type(config).__name__)
def test_models_without_learned_positions_read_any_length(config):
    assert config.longest_row is None


def refuse(task, source, target, *, dev=4, model=LEARNED, **batch):
    table = Columns({'inputs': Ragged.blank([dev, 2])})
    refuse_long_rows(
        SimpleNamespace(model=model, task=task, batch=BatchConfig(max_length=8, **batch)),
        PreparedColumns({}, {'dev': table}),
        SimpleNamespace(shapes=(BatchShape(2, 4, 4), BatchShape(2, source, target))),
    )


def test_batches_longer_than_the_positions_are_refused():
    for model in (LEARNED, *UNLIMITED):
        refuse(Translation(), 12, 12, model=model)
    for longer in ((13, 8), (8, 13)):
        with pytest.raises(UserError, match=r'training are up to 13 .* only 12; set --batch\.max'):
            refuse(Translation(), *longer)
        refuse(Translation(), *longer, model=UNLIMITED[0])


def test_an_evaluation_that_could_not_be_read_is_refused_before_training():
    refuse(Translation(), 12, 12, evaluation_max_length=40)  # which cuts, and says so
    refuse(LanguageModeling(), 8, 8)
    with pytest.raises(UserError, match=r'evaluation are up to 40 .* only 12'):
        refuse(LanguageModeling(), 8, 8, evaluation_max_length=40)
    refuse(TextClassification(), 8, 8, dev=8)
    with pytest.raises(UserError, match=r'evaluation are up to 14 .* only 12'):
        refuse(TextClassification(), 8, 8, dev=14)
