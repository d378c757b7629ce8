"""Counts and tables from shapes alone."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from seqzoo.analysis.parameters import (
    count_parameters,
    parameter_table,
    render_parameter_table,
)
from seqzoo.models.base import ModelConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.parallel.axes import named


class Toy(nn.Module):
    vocab_size: int
    width: int

    @nn.compact
    def __call__(self, tokens):
        normal = nn.initializers.normal()
        table = self.param('table', named(normal, 'vocab', 'embed'), (self.vocab_size, self.width))
        x = table[tokens]
        x = nn.Dense(3 * self.width, name='inner', param_dtype=jnp.bfloat16)(x)
        return nn.Dense(self.width, use_bias=False, name='outer')(x) @ table.T


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    vocab_size: int = 7
    width: int = 4

    def build(self):
        return Toy(self.vocab_size, self.width)

    @classmethod
    def tiny(cls):
        return cls()

    def example_inputs(self, batch=2, length=8):
        return (jnp.zeros((batch, length), jnp.int32),)


def test_the_count_is_exact_and_a_tied_table_counts_once():
    # table 7 * 4, inner 4 * 12 + 12, outer 12 * 4
    assert count_parameters(ToyConfig()) == 28 + 60 + 48


def test_the_count_agrees_with_parameters_that_exist():
    config = ToyConfig(vocab_size=11, width=6)
    variables = config.build().init(jax.random.key(0), *config.example_inputs())
    real = sum(x.size for x in jax.tree.leaves(nn.meta.unbox(variables)))
    assert count_parameters(config) == real


def test_175_billion_parameters_are_counted_without_memory():
    config = ToyConfig(vocab_size=1_000_000, width=160_000)
    assert count_parameters(config) == 10**6 * 160_000 + 6 * 160_000**2 + 3 * 160_000


def test_rows_carry_names_shapes_and_types():
    rows = {row.path: row for row in parameter_table(ToyConfig())}
    assert set(rows) == {'table', 'inner/kernel', 'inner/bias', 'outer/kernel'}
    assert rows['table'].axes == ('vocab', 'embed')
    assert rows['table'].shape == (7, 4)
    assert rows['inner/kernel'].dtype == 'bfloat16'
    assert rows['inner/kernel'].axes == ()


def test_the_rendered_table_is_aligned_and_adds_up():
    text = render_parameter_table(parameter_table(ToyConfig(vocab_size=1000)))
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ['total', '4,108']
    (group,) = [line for line in lines if line.startswith('inner')]
    assert group.split() == ['inner', '60']
    assert '1000 x 4' in text
    assert 'vocab embed' in text


def test_a_model_without_parameters_has_a_table():
    assert render_parameter_table([]).splitlines()[-1].split() == ['total', '0']


@pytest.mark.parametrize(
    ('changes', 'count'),
    [
        ({}, 63_045_632),
        ({'embed_dim': 1024, 'mlp_dim': 4096, 'num_heads': 16}, 214_171_648),
        ({'key_dim': 16}, 55_967_744),
        ({'num_layers': 2}, 33_644_544),
        ({'embed_dim': 256}, 26_816_512),
        ({'mlp_dim': 4096}, 88_236_032),
    ],
)
def test_the_transformers_of_the_paper_have_their_exact_counts(changes, count):
    assert count_parameters(TransformerConfig(vocab_size=37_000, **changes)) == count
