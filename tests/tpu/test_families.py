"""The training step of every model family, compiled for four chips of a TPU v5e.

Families are found as the contract battery finds them. Each is compiled once, in bfloat16, on a mesh
that splits rows over four devices and, where its test size lets it, parameters over two; everything
is asked of that one program.
"""

import re
import sys

import jax
import jax.numpy as jnp
import pytest

from seqzoo.analysis.collectives import collectives
from seqzoo.analysis.program_text import parse
from seqzoo.analysis.slices import without_cache
from seqzoo.models.base import ConfigError
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.compile import compile_train_step
from seqzoo.parallel.mesh import MeshConfig, build_mesh, rows_sharding
from seqzoo.training.state import StateFactory
from seqzoo.training.step import make_train_step

battery = sys.modules['battery']
CONFIGS = [config.tiny() for config in battery.configurations()]
ROWS, LENGTH = 8, 16

_PRODUCT = re.compile(
    r'stablehlo\.dot_general .*?(?:batching_dims = (?P<batch>\[[^\]]*\]) x \[[^\]]*\], )?'
    r'contracting_dims = (?P<over>\[[^\]]*\]) x .* : '
    r'\(tensor<(?P<left>[^>]*)>, tensor<(?P<right>[^>]*)>\)'
)
_CONVOLUTION = re.compile(
    r'stablehlo\.convolution.* : \(tensor<(?P<left>[^>]*)>, tensor<(?P<right>[^>]*)>\)'
)
_FROM_HOST = ('infeed', 'outfeed', 'send', 'recv')


def in_bfloat16(config):
    return battery.with_fields(config, lambda name: name == 'dtype', 'bfloat16')


def lowered_step(config, devices):
    try:
        return lowered_for(config, build_mesh(MeshConfig(fsdp=2), devices))
    except ConfigError:  # an odd width, which no two devices can share
        return lowered_for(config, build_mesh(MeshConfig(), devices))


def lowered_for(config, mesh):
    model, transformation = config.build(), Adam().build()
    carry = battery.a_carry(config, ROWS)
    factory = StateFactory(
        config, model, transformation, mesh, seed=0,
        first_carry=lambda: jax.tree.map(jnp.asarray, carry),
    )  # fmt: skip
    inputs, tree = jax.tree.flatten(jax.eval_shape(lambda: config.example_inputs(ROWS, LENGTH)))
    rows = {'rows': jax.ShapeDtypeStruct((ROWS,), 'int32')}
    rows |= {'weight': jax.ShapeDtypeStruct((ROWS,), 'float32')}
    rows |= {f'input_{number}': leaf for number, leaf in enumerate(inputs)}
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows_sharding(mesh)), rows
    )
    step = make_train_step(
        battery.WeightedRows(tree), model, transformation, Constant(rate=0.1).build(1)
    )
    return compile_train_step(step, mesh, factory.shardings()).lower(factory.abstract(), batch)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda config: type(config).__name__)
def test_the_step_is_a_good_program_for_a_tpu(config, four_chips):
    lowered = lowered_step(in_bfloat16(config), four_chips.devices)
    before = lowered.as_text()
    # Most devices would otherwise compute what one of them could.
    assert before.count('sharding_constraint') >= 1
    assert 'f64' not in before
    assert 'callback' not in before
    assert_products_are_bfloat16(before)

    with without_cache():
        executable = lowered.compile()
    memory = executable.memory_analysis()
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < four_chips.room
    text = executable.as_text()
    program = parse(text)
    opcodes = {i.opcode for body in program.computations.values() for i in body.values()}
    assert not opcodes & set(_FROM_HOST)
    assert 'f64[' not in text
    found = collectives(program)
    assert any(c.kind == 'all-reduce' for c in found), 'gradients are not summed'
    in_time = [c for c in found if c.place == 'time_scan']
    assert not in_time, f'devices wait for each other in every step of time: {in_time}'


def assert_products_are_bfloat16(text):
    """Of matrices, that is; a sum weighted by a vector may be exact, and so may the weights of
    attention, whose gradient is: the matrix unit rounds what is beside a side in bfloat16.
    """
    products = [Product(match) for match in _PRODUCT.finditer(text)]
    convolutions = list(_CONVOLUTION.finditer(text))
    assert products or convolutions
    wide = [p.text for p in products if p.is_of_matrices and not p.is_narrow]
    wide += [c[0] for c in convolutions if 'xbf16' not in c['left'] + c['right']]
    assert not wide, wide


class Product:
    """A line of StableHLO that multiplies."""

    def __init__(self, match):
        self.text = match[0]
        self.sides = [match[side].split('x') for side in ('left', 'right')]
        self.is_contracted = '[]' not in match['over']
        self.shared = sum(len(re.findall(r'\d+', match[name] or '')) for name in ('batch', 'over'))

    @property
    def is_of_matrices(self):
        # The type stands behind the sizes; what is left of both sides is rows and columns.
        return self.is_contracted and all(len(side) - 1 > self.shared for side in self.sides)

    @property
    def is_narrow(self):
        return any(side[-1] == 'bf16' for side in self.sides)
