"""What fine-tuning takes from another run: by names and shapes, nothing else."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.errors import UserError
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.language_model_encoder import LanguageModelEncoderConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.training.pretrained import overlap_of, placed, taken

ENCODER = BertConfig.tiny()
PRETRAINED = BertPretrainingConfig(encoder=ENCODER)
CLASSIFIER = LabelerConfig(encoder=ENCODER, num_outputs=3)
LM = RecurrentLMConfig(
    vocab_size=16, embed_dim=8, layers=RecurrentConfig(cell=LSTM(hidden_dim=8)), tie=True
)


def numbered(config, first):
    """Parameters of which no two are equal."""
    made = jax.eval_shape(config.build().init, jax.random.key(0), *config.example_inputs())
    leaves, tree = jax.tree.flatten(meta.unbox(made)['params'])
    starts = first + np.cumsum([0, *(leaf.size for leaf in leaves)])
    return tree.unflatten(
        [
            jnp.arange(start, start + leaf.size).reshape(leaf.shape)
            for start, leaf in zip(starts, leaves, strict=False)
        ]
    )


def test_a_head_is_new_and_what_lies_below_it_is_that_of_the_other_run():
    overlap = overlap_of(PRETRAINED, CLASSIFIER, '--pretrained P')
    assert overlap.loaded == (
        'encoder/embedding', 'encoder/embedding_norm', 'encoder/pooler', 'encoder/positions',
        'encoder/stack', 'encoder/token_types',
    )  # fmt: skip
    assert overlap.new == ('head',)
    assert overlap.left_there == ('logit_bias', 'next_sentence', 'transform', 'transform_norm')
    theirs, ours = numbered(PRETRAINED, 0), numbered(CLASSIFIER, 10**6)
    read = jax.tree.map(lambda own: own - 10**6, taken(ours, overlap))
    assert jax.tree.structure(read) == jax.tree.structure({'encoder': theirs['encoder']})
    found = placed(ours, {'encoder': theirs['encoder']}, overlap)
    jax.tree.map(np.testing.assert_array_equal, found['encoder'], theirs['encoder'])
    jax.tree.map(np.testing.assert_array_equal, found['head'], ours['head'])


def test_a_language_model_moves_below_a_head():
    below = LabelerConfig(encoder=LanguageModelEncoderConfig(language_model=LM), num_outputs=2)
    overlap = overlap_of(LM, below, '--pretrained P')
    assert (overlap.source, overlap.target) == ((), ('encoder', 'language_model'))
    assert overlap.new == ('head',)
    assert overlap.left_there == ()
    theirs, ours = numbered(LM, 0), numbered(below, 10**6)
    assert jax.tree.structure(taken(ours, overlap)) == jax.tree.structure(theirs)
    found = placed(ours, theirs, overlap)['encoder']['language_model']
    jax.tree.map(np.testing.assert_array_equal, found, theirs)


def test_a_tagger_leaves_the_pooler_and_dropout_may_differ():
    plain = replace(ENCODER, pooler=False, dropout_rate=0.3, dtype='bfloat16', remat='full')
    overlap = overlap_of(PRETRAINED, LabelerConfig(encoder=plain, num_outputs=2, per='step'), 'P')
    assert 'encoder/pooler' in overlap.left_there
    back = overlap_of(
        LabelerConfig(encoder=plain, num_outputs=2, per='step'), CLASSIFIER, '--pretrained P'
    )
    assert back.new == ('encoder/pooler', 'head')


def test_another_backbone_is_refused_with_the_options_that_make_it_alike():
    other = replace(CLASSIFIER, encoder=replace(ENCODER, num_layers=3, norm_epsilon=1e-6))
    with pytest.raises(UserError) as refused:
        overlap_of(PRETRAINED, other, '--pretrained P')
    said = str(refused.value)
    assert 'model.encoder.num_layers: 2 -> 3' in said
    assert '--model.encoder.num-layers 2 --model.encoder.norm-epsilon 1e-12' in said
    recurrent = RecurrentEncoderConfig(
        inputs=Tokens(vocab_size=32), layers=RecurrentConfig(cell=LSTM(hidden_dim=8))
    )
    with pytest.raises(UserError, match='holds a Bert below its head'):
        overlap_of(PRETRAINED, LabelerConfig(encoder=recurrent, num_outputs=2), '--pretrained P')


def test_parameters_of_another_shape_are_refused_by_name(monkeypatch):
    import seqzoo.training.pretrained as module

    monkeypatch.setattr(module, '_may_differ', lambda field: True)
    other = replace(CLASSIFIER, encoder=replace(ENCODER, vocab_size=33))
    with pytest.raises(UserError, match=r'encoder/embedding/table is \(32, 16\) there and \(33'):
        overlap_of(PRETRAINED, other, '--pretrained P')
