"""The compiled training step: constraints are in it, parameters split, and little is said.

The bounds are for XLA on CPU, which writes an all-reduce where TPUs and GPUs do a reduce-scatter.
"""

import math

import jax
import pytest

from seqzoo.analysis.collectives import KINDS, collectives, traffic

LAYERS = 2
RING = (('attention_implementation', 'ring'),)
PADDED = (('vocab_multiple', 8),)
MESHES = {
    'data': ((), {'data': 8}),
    'fsdp': ((), {'fsdp': 8}),
    'tensor': (PADDED, {'data': 4, 'tensor': 2}),
    'sequence': ((), {'sequence': 4}),
    'ring': (RING, {'data': 2, 'sequence': 4}),
}
# Self-attention of the encoder, self-attention and cross-attention of the decoder.
ATTENTIONS = 3


@pytest.fixture(params=MESHES)
def name(request):
    return request.param


@pytest.fixture
def compiled(program, name):
    changes, mesh = MESHES[name]
    return program(changes, **mesh)


@pytest.fixture
def found(compiled):
    return collectives(compiled.hlo)


def total_bytes(step):
    """Of all parameters."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(step.parameters))


def held_bytes(step):
    """Of what one device holds of the parameters; a gradient takes as much."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(step.parameters)
    )


def test_constraints_are_really_there(compiled, name):
    # At least: embeddings, residual sums, queries, keys, values, results, hidden units, logits.
    assert compiled.lowered.count('sharding_constraint') >= 30
    axes = {'data': 'data', 'fsdp': 'fsdp', 'tensor': 'tensor'}.get(name, 'sequence')
    constraints = [x for x in compiled.lowered.splitlines() if 'sharding_constraint' in x]
    assert sum(f'"{axes}"' in line for line in constraints) >= 15


def test_one_device_has_neither_constraints_nor_collectives(program):
    alone = program((), data=1)
    assert 'sharding_constraint' not in alone.lowered
    assert collectives(alone.hlo) == []


def test_the_executable_takes_parameters_as_the_state_is_laid_out(compiled, name):
    (state, _), _ = compiled.executable.input_shardings
    new_state, _ = compiled.executable.output_shardings

    def as_laid_out(leaf, found):
        assert found.is_equivalent_to(leaf.sharding, leaf.ndim), f'{found} is not {leaf.sharding}'

    jax.tree.map(as_laid_out, compiled.parameters, state.params)
    # They come out as they went in: the next step begins without moving anything.
    jax.tree.map(as_laid_out, compiled.parameters, new_state.params)
    share = {'fsdp': 1 / 8, 'tensor': 1 / 2}.get(name, 1.0)
    assert share <= held_bytes(compiled) / total_bytes(compiled) <= 1.1 * share


def counts(found):
    return {kind: traffic(found)[kind].count if kind in traffic(found) else 0 for kind in KINDS}


def test_data_parallel_steps_only_add_gradients(program):
    changes, mesh = MESHES['data']
    step = program(changes, **mesh)
    found = collectives(step.hlo)
    number = counts(found)
    assert number.pop('all-reduce') <= 6  # two loops over layers, the rest, weights and sums
    assert not any(number.values())
    # Every gradient once; that of the table, used in three places, in three parts; a few scalars.
    table = step.parameters['embedding']['table']
    gradients = total_bytes(step) + 2 * table.size * table.dtype.itemsize
    assert 0 <= traffic(found)['all-reduce'].bytes - gradients <= 100


def test_fully_sharded_steps_gather_each_layer_inside_the_loop(program):
    changes, mesh = MESHES['fsdp']
    step = program(changes, **mesh)
    found = collectives(step.hlo)
    gathers = [c for c in found if c.kind == 'all-gather']
    per_layer = [c for c in gathers if c.in_loop]
    # Never a whole stack of layers: always one array of one layer.
    stacked = [x for x in jax.tree.leaves(step.parameters) if x.shape[0] == LAYERS]
    of_one_layer = {f'f32[{",".join(map(str, x.shape[1:]))}]' for x in stacked}
    assert {shape for c in per_layer for shape in c.shapes} <= of_one_layer
    assert all(c.times == LAYERS for c in per_layer)
    # Each parameter at most once forward and once backward.
    every = total_bytes(step)
    assert 0.9 * every <= traffic(gathers)['all-gather'].bytes <= 2.1 * every
    assert counts(found)['all-reduce'] <= 8
    assert counts(found)['collective-permute'] == 0


def test_tensor_parallel_steps_add_activations_and_gather_no_parameter(program):
    changes, mesh = MESHES['tensor']
    step = program(changes, **mesh)
    found = collectives(step.hlo)
    number = counts(found)
    assert number['all-gather'] == number['all-to-all'] == number['reduce-scatter'] == 0
    # Forward: one sum after each attention and feed-forward layer. Backward: one before each; plus
    # the gradients of each loop. Outside: embeddings, softmax, logits, gradients, scalars.
    in_loops = [c for c in found if c.kind == 'all-reduce' and c.in_loop]
    assert ATTENTIONS + 2 + ATTENTIONS + 2 <= len(in_loops) <= 16
    assert number['all-reduce'] <= 26
    # Padding moves the ends of a table over: a few rows, and no more.
    permutes = [c for c in found if c.kind == 'collective-permute']
    assert sum(c.bytes for c in permutes) <= 4 * 3 * 32 * 4


def test_a_gathered_length_moves_keys_and_values_and_no_parameter(program):
    changes, mesh = MESHES['sequence']
    found = collectives(program(changes, **mesh).hlo)
    gathers = [c for c in found if c.kind == 'all-gather']
    assert len(gathers) == 2 * ATTENTIONS
    for gather in gathers:
        assert gather.times == LAYERS
        assert 'self_attention' in gather.source or 'cross_attention' in gather.source
        assert set(gather.shapes) <= {'f32[8,40,4,8]', 'f32[8,24,4,8]'}


def test_a_ring_hands_blocks_on_inside_its_loop_and_gathers_nothing(program):
    changes, mesh = MESHES['ring']
    found = collectives(program(changes, **mesh).hlo)
    number = counts(found)
    assert number['all-gather'] == number['all-to-all'] == 0
    permutes = [c for c in found if c.kind == 'collective-permute' and 'attention' in c.source]
    assert all(c.in_loop and c.group == 4 for c in permutes)
    # Keys, values and segments forward; with the gradients of keys and values backward.
    turning = [c for c in permutes if c.times == 3 * LAYERS]
    assert len([c for c in turning if c.shapes[0].startswith('f32')]) == ATTENTIONS * (2 + 4)
    home = [c for c in permutes if c.times == LAYERS]
    assert len(home) == ATTENTIONS * 2
    assert all(c.bytes <= 4 * (4 * 10 * 4 * 8) for c in permutes)  # a block, never the length
