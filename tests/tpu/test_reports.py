"""What `seqzoo compile` says of programs for a TPU, held against the programs."""

import functools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from seqzoo.analysis.ahead_of_time import compile_traced, trace_search, trace_step
from seqzoo.analysis.collectives import collectives
from seqzoo.analysis.compile_report import as_json, kernels, report
from seqzoo.analysis.compiled_step import read_step
from seqzoo.analysis.program_text import ENTRY, parse
from seqzoo.analysis.slices import find_slice, without_cache
from seqzoo.commands.compile import render
from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.layers.attention import dot_product_attention
from seqzoo.parallel.axes import axis_rules
from seqzoo.parallel.mesh import MeshConfig, build_mesh

CONFIG = 'transformer_tiny_numerals'
SMALL = (
    '--model.num-layers', '2', '--model.embed-dim', '128', '--model.mlp-dim', '128',
    '--model.num-heads', '2', '--batch.tokens', '1280', '--batch.max-length', '40',
)  # fmt: skip
FSDP = ('--mesh.data', '2', '--mesh.fsdp', '2')


@pytest.fixture(scope='module')
def compiled(four_chips):
    experiment = load_config(CONFIG, [*SMALL, *FSDP])
    traced = trace_step(experiment, build_mesh(experiment.mesh, four_chips.devices))
    return experiment, compile_traced(traced, four_chips.room)


@pytest.fixture(scope='module')
def result(compiled, four_chips):
    experiment, program = compiled
    return as_json(report(CONFIG, experiment, four_chips, program, [4, 8, 32]))


def test_memory_is_what_the_compiler_says(compiled, result):
    _, program = compiled
    said, parts = program.executable.memory_analysis(), dict(result['memory'])
    total, room = parts.pop('total'), parts.pop('room')
    assert sum(parts.values()) == total
    assert total == (
        said.argument_size_in_bytes
        + said.temp_size_in_bytes
        + said.output_size_in_bytes
        - said.alias_size_in_bytes
        + said.generated_code_size_in_bytes
    )
    assert parts['program'] == said.generated_code_size_in_bytes
    assert room == int(15.75 * 2**30)
    # Twice as many moments as parameters, and half of both on each of two devices.
    assert parts['optimizer state'] == 2 * parts['parameters'] + 4
    state = program.traced.lowered.in_avals[0][0]
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    assert whole / 2 <= parts['parameters'] <= 0.55 * whole


def test_arguments_take_the_tiles_that_their_layouts_say(compiled):
    _, program = compiled
    entry = parse(program.text).computations[ENTRY].values()
    arguments = [i for i in entry if i.opcode == 'parameter']
    stored = sum(array.stored_bytes for i in arguments for array in i.arrays)
    assert stored == program.executable.memory_analysis().argument_size_in_bytes


def test_parameters_are_gathered_and_gradients_summed_inside_of_the_layers(result):
    found = {(one['place'], one['kind']): one for one in result['collectives']}
    assert ('layer_scan', 'all-gather') in found
    assert {('layer_scan', 'reduce-scatter'), ('layer_scan', 'all-reduce')} & found.keys()
    assert not [place for place, _ in found if place not in ('layer_scan', 'outside')]
    # Forward and backward once each, in half the bytes of float32.
    gathered = sum(one['bytes'] for (_, kind), one in found.items() if kind == 'all-gather')
    whole = 2 * result['memory']['parameters']
    assert 0.4 * whole <= gathered <= 1.3 * whole


def test_the_estimate_is_the_formula_of_what_is_reported(result):
    found = result['estimate']
    assert found['compute_seconds'] == pytest.approx(found['flops_per_device'] / 197e12)
    assert found['memory_seconds'] == pytest.approx(found['bytes_per_device'] / 819e9)
    parts = [found[f'{name}_seconds'] for name in ('compute', 'memory', 'link')]
    assert found['step_seconds'] == pytest.approx([max(parts), sum(parts)])
    assert found['mfu'][1] == pytest.approx(
        found['model_flops'] / 4 / 197e12 / found['step_seconds'][0]
    )
    assert [one['chips'] for one in result['scaling']] == [4, 8, 32]
    # At least every parameter and moment is read and written.
    assert found['bytes_per_device'] > 2 * 3 * result['memory']['parameters']


def test_the_report_is_printed_for_people_and_as_json(result):
    assert json.loads(json.dumps(result)) == result
    text = render(result)
    assert 'it fits' in text
    assert 'layer scan' in text
    assert 'kv is 64 on each device' in text  # half of the matrix unit's columns


def test_the_report_says_which_experiment_and_which_batch_it_is_of(compiled, result):
    experiment, _ = compiled
    step = read_step(CONFIG, experiment, json.loads(json.dumps(result)))
    assert (step.topology, step.chips) == ('v5e:2x2', 4)
    assert list(step.seconds) == result['estimate']['step_seconds']
    with pytest.raises(UserError, match='compile it with the same options'):
        read_step(CONFIG, load_config(CONFIG), result)


def test_a_search_waits_for_others_only_to_know_whether_all_are_done(four_chips):
    options = [*SMALL, '--model.num-layers', '1', '--decode.rows', '8', '--decode.beams', '2']
    experiment = load_config(CONFIG, options)
    traced = trace_search(experiment, build_mesh(experiment.mesh, four_chips.devices))
    program = compile_traced(traced, four_chips.room)
    found = report(CONFIG, experiment, four_chips, program, [])
    inside = [c for c in found.collectives if c.place == 'decode_loop']
    assert {c.kind for c in inside} <= {'all-reduce'}
    assert sum(c.bytes for c in inside) <= 8
    # Each step reads every parameter of the decoder at least once, in bfloat16.
    assert found.step_bytes is not None
    assert 'each step of the search moves' in render(as_json(found))


@functools.cache
def on_one_chip(dropout):
    mesh = build_mesh(MeshConfig(), find_slice('v5e:1x1').devices)
    array = jax.ShapeDtypeStruct(
        (2, 256, 2, 128), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())
    )

    def attend(query, key, value):
        drop = {'dropout_rate': 0.1, 'dropout_key': jax.random.key(0)} if dropout else {}
        with axis_rules(mesh):
            return dot_product_attention(query, key, value, causal=True, **drop)

    with without_cache():
        return parse(jax.jit(attend).lower(array, array, array).compile().as_text())


def test_attention_is_a_kernel_where_it_can_be_and_the_report_sees_it():
    assert kernels(on_one_chip(dropout=False)) == {'splash attention': 1}
    assert kernels(on_one_chip(dropout=True)) == {}


def test_known_collectives_have_known_bytes_and_places(four_chips):
    mesh = build_mesh(MeshConfig(data=2, tensor=2), four_chips.devices)
    ring = [(0, 1), (1, 0)]

    def local(x):
        def body(x, _):
            return jnp.sin(jax.lax.ppermute(x, 'tensor', ring)), None

        x = jax.lax.scan(body, x, length=5)[0]
        return jax.lax.psum(x, 'data')

    spec = PartitionSpec('data', 'tensor')
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=NamedSharding(mesh, spec))
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(None, 'tensor'), check_vma=False
    )
    with without_cache():
        found = {c.kind: c for c in collectives(jax.jit(mapped).lower(x).compile().as_text())}
    permute, reduce = found['collective-permute'], found['all-reduce']
    assert (permute.bytes, permute.times, permute.place) == (4 * 128 * 128, 5, 'loop')
    assert (reduce.bytes, reduce.times, reduce.place) == (4 * 128 * 128, 1, 'outside')
    assert permute.members == (0, 1)
    assert reduce.members == (0, 2)


def test_what_does_not_fit_is_one_sentence_and_nothing_else_is_said():
    words = [CONFIG, '--topology', 'v5e:2x2', '--batch.tokens', '8000000', '--json']
    words += ['--batch.max-length', '512', '--model.num-layers', '1', '--model.embed-dim', '128']
    environment = {**os.environ, 'JAX_PLATFORMS': ''}
    result = subprocess.run(
        [sys.executable, '-m', 'seqzoo', 'compile', *words],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith('seqzoo: this needs ')
    assert '--batch.tokens' in line
    assert '--model.remat full' in line
    assert '--mesh.fsdp 4' in line
    found = json.loads(result.stdout)
    assert found['fits'] is False
    assert found['memory']['total'] > found['memory']['room']
    assert f'seqzoo: {found["remedy"]}' == line


@pytest.mark.parametrize(('name', 'devices'), [('v3:2x2', 8), ('v4:2x2x2', 8), ('v6e:2x2', 4)])
def test_a_slice_of_every_kind_becomes_a_mesh(name, devices):
    found = find_slice(name)
    assert len(found.devices) == devices == found.chips * found.chip.devices
    mesh = build_mesh(MeshConfig(data=2, fsdp=-1), found.devices)
    assert mesh.shape['fsdp'] == devices // 2
