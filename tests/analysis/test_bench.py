"""Speed and scaling: what is counted, how measurements compare, and who takes turns."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from seqzoo.__main__ import main
from seqzoo.analysis import bench_processes, scaling
from seqzoo.analysis.bench_processes import Worker, serve, simulating, take_turns
from seqzoo.analysis.input_speed import measure_input
from seqzoo.analysis.throughput import (
    Bench,
    Settings,
    Source,
    find_data,
    longest,
    synthetic_arrays,
)
from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.models.transformer_flops import transformer_flops

TINY = {
    'model.num_layers': 1,
    'model.embed_dim': 16,
    'model.mlp_dim': 32,
    'model.num_heads': 2,
    'batch.tokens': 64,
    'batch.max_length': 16,
    'batch.fitted_buckets': None,
    'batch.buckets': (16,),
}
SYNTHETIC = Source(None, 'synthetic')


def tiny(**changes):
    return load_config('transformer_tiny_numerals', {**TINY, **changes})


def test_a_round_counts_every_token_and_operation_of_its_batches():
    bench = Bench(tiny(), 2, Settings(steps=2, peak_flops=1e9), SYNTHETIC)
    ready = bench.prepare()
    json.dumps(ready)
    (case,) = ready['cases']
    # Two full batches of 4 x 16 on each side; nothing is padded.
    assert case['tokens_per_round'] == case['positions_per_round'] == 2 * 64
    assert (case['devices'], case['steps_per_round'], case['mesh']) == (2, 2, {'data': 2})
    assert ready['simulated']
    assert ready['platform'] == 'cpu'
    forward = transformer_flops(tiny().nominal_model(), batch=4, source_length=16, target_length=16)
    assert case['flops_per_round'] == 2 * forward.training()
    seconds = bench.round()
    (m,) = scaling.measurements(ready, [seconds])
    assert m['tokens_per_second']['median'] == pytest.approx(128 / seconds[0])
    expected = case['flops_per_round'] / (seconds[0] * 2 * 1e9)
    assert m['mfu'] == pytest.approx(expected)


def test_weak_scaling_gives_each_device_a_batch_and_agrees_with_strong_on_one():
    bench = Bench(tiny(), 4, Settings(scalings=('strong', 'weak')), SYNTHETIC)
    assert bench._sizes(4) == {64: ('strong',), 256: ('weak',)}
    assert bench._sizes(1) == {64: ('strong', 'weak')}


def test_more_devices_than_there_are_is_a_sentence():
    with pytest.raises(UserError, match='--devices 99, but on cpu there are 8 devices'):
        Bench(tiny(), 99, Settings(), SYNTHETIC).prepare()


@pytest.mark.parametrize('name', ['transformer_base_wmt14_ende', 'lstm_ptb', 'lstm_moe_lm1b'])
def test_full_batches_are_known_without_data(name):
    experiment = load_config(name)
    plan = experiment.task.nominal_plan(experiment.batch)
    specs = longest(experiment.task.batch_specs(plan, row_multiple=1, process_count=1))
    length = experiment.batch.max_length
    wide = max(spec.shape[1] for spec in specs.values() if len(spec.shape) > 1)
    assert wide in (length, length + 1)
    assert len(specs['rows'].shape) == 1
    assert specs['rows'].shape[0] >= 1


def test_synthetic_rows_are_full_and_numbered_through_all_processes():
    experiment = tiny()
    plan = experiment.task.nominal_plan(experiment.batch)
    specs = longest(experiment.task.batch_specs(plan, row_multiple=1, process_count=2))
    first, second = (synthetic_arrays(specs, 50, seed=1, share=share) for share in (0, 1))
    assert [*first['rows'], *second['rows']] == [0, 1, 2, 3]
    assert first['source_segments'].all()
    assert (first['source_positions'][0] == range(16)).all()
    assert first['target'].min() >= 4
    assert first['target'].max() < 50
    assert not np.array_equal(first['source'], second['source'])


def test_missing_data_is_said_and_not_hidden(tmp_path, monkeypatch):
    monkeypatch.delenv('SEQZOO_DATA_DIR', raising=False)
    source = find_data(load_config('transformer_base_wmt14_ende'), cache_dir=tmp_path)
    assert source.prepared is None
    assert source.note.startswith('synthetic, for there is no data (')


def made(devices, rate, *, kind='strong', strategy='jit', simulated=False, **more):
    return {
        **{'scaling': kind, 'strategy': strategy, 'devices': devices, 'simulated': simulated},
        'tokens_per_second': scaling.spread([rate]),
        'seconds_per_step': scaling.spread([1.0]),
        **{'mfu': None, 'compile_seconds': 0.0, 'input_seconds_per_step': 0.0},
        'transfer_seconds_per_step': 0.0,
        **more,
    }


def result(*measurements, **more):
    about = {'config': 'c', 'experiment': {}, 'data': 'd', 'platform': 'tpu', 'device_kind': 'v5e'}
    return {
        **{'kind': scaling.KIND, 'cores': 2, 'compilation_cache': False, 'mfu_formula': 'f'},
        **about,
        'measurements': list(measurements),
        **more,
    }


def test_efficiency_is_that_of_a_device_against_the_fewest_of_its_kind():
    found = scaling.with_efficiency(
        result(
            made(8, 600.0), made(2, 200.0), made(4, 500.0, kind='weak'), made(2, 250.0, kind='weak')
        )
    )
    by_case = {(m['scaling'], m['devices']): m['efficiency'] for m in found['measurements']}
    assert by_case['strong', 2] == {'value': 1.0, 'against_devices': 2}
    assert by_case['strong', 8]['value'] == pytest.approx(0.75)
    assert by_case['weak', 4]['value'] == pytest.approx(1.0)


def test_results_of_slices_are_joined_and_set_against_each_other(tmp_path, capsys):
    files = []
    for count, rate in ((4, 400.0), (8, 600.0)):
        files.append(tmp_path / f'{count} chips.json')
        files[-1].write_text(json.dumps(scaling.with_efficiency(result(made(count, rate)))))
    words = ['bench', '--merge', *map(str, files), '--output', str(tmp_path / 'both'), '--json']
    assert main(words) == 0
    joined = json.loads(capsys.readouterr().out)
    assert [m['efficiency']['value'] for m in joined['measurements']] == [1.0, 0.75]
    assert json.loads((tmp_path / 'both' / 'scaling.json').read_text()) == joined
    assert (tmp_path / 'both' / 'scaling.png').stat().st_size > 10_000
    # The same slice twice, another experiment, and no result at all are no joint result.
    assert main(['bench', '--merge', str(files[0]), str(files[0])]) == 2
    assert 'both have 4 devices' in capsys.readouterr().err
    files[1].write_text(json.dumps(result(made(8, 1.0), device_kind='v6e')))
    assert main(['bench', '--merge', *map(str, files)]) == 2
    assert 'differ in device_kind' in capsys.readouterr().err
    short = result(made(8, 1.0))
    del short['measurements'][0]['scaling']
    files[1].write_text(json.dumps(short))
    assert main(['bench', '--merge', *map(str, files)]) == 2
    assert "is not a result of seqzoo bench (KeyError('scaling'))" in capsys.readouterr().err
    files[1].write_text('{"kind": "another"}')
    assert main(['bench', '--merge', *map(str, files)]) == 2
    assert 'is not a result of seqzoo bench' in capsys.readouterr().err


def test_simulated_devices_are_no_speed_and_the_result_says_so():
    found = scaling.with_efficiency(result(made(1, 10.0), made(2, 10.0, simulated=True)))
    assert 'no speed and no scaling of any accelerator' in scaling.caution(found)
    assert 'not a speed' in scaling.scaling_curves(found)._suptitle.get_text()
    assert scaling.caution(scaling.with_efficiency(result(made(1, 10.0)))) == ''


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (['--devices', '1,x'], 'list of different whole numbers'),
        (['--devices', '0,1'], 'counts from 1 on'),
        (['--output', __file__], 'give another --output'),
        (['--strategy', 'jit,xmap'], "'xmap' is none of"),
        (['--chips', '4'], 'belong to --input'),
        (['--input', '--chips', '4'], 'give that too'),
        (['--peak-flops', 'nan'], 'not a number above 0'),
        (['--merge', 'a.json'], 'leave CONFIG'),
    ],
)
def test_options_that_make_no_sense_are_a_sentence(words, complaint, capsys):
    assert main(['bench', 'transformer_tiny_numerals', *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert 'Traceback' not in said


class Fake:
    """A worker that writes down when it works."""

    def __init__(self, name, platform, log):
        self.name, self.log = name, log
        self.ready = {'platform': platform}
        log.append(f'{name} starts')

    def ask(self):
        self.log.append(self.name)
        return [1.0]

    def close(self):
        self.log.append(f'{self.name} ends')


def test_processes_take_turns_on_a_processor_and_follow_each_other_on_a_chip():
    log = []
    found = take_turns([lambda n=n: Fake(n, 'cpu', log) for n in 'ab'], 2)
    assert log == ['a starts', 'b starts', *'abab', 'a ends', 'b ends']
    assert [rounds for _, rounds in found] == [[[1.0], [1.0]]] * 2
    log.clear()
    take_turns([lambda n=n: Fake(n, 'tpu', log) for n in 'ab'], 2)
    assert log == ['a starts', *'aa', 'a ends', 'b starts', *'bb', 'b ends']


def test_a_process_that_measures_answers_every_line(capsys):
    numbers = iter([[1.0], [2.0]])
    serve(lambda: {'platform': 'cpu'}, lambda: next(numbers), ['\n', '\n'])
    assert capsys.readouterr().out.split('\n')[:3] == ['{"platform": "cpu"}', '[1.0]', '[2.0]']


def test_what_is_wrong_in_a_process_that_measures_is_its_sentence(monkeypatch):
    program = "import sys; print('seqzoo: no such thing; do that', file=sys.stderr); sys.exit(2)"
    real = bench_processes.subprocess.Popen
    monkeypatch.setattr(
        bench_processes.subprocess,
        'Popen',
        lambda words, **options: real([words[0], '-c', program], **options),
    )
    with pytest.raises(UserError, match='no such thing; do that'):
        Worker(['bench'], 2)


def test_the_number_of_simulated_devices_replaces_another_one(monkeypatch):
    flag = '--xla_force_host_platform_device_count'
    monkeypatch.setenv('XLA_FLAGS', f'{flag}=8 --xla_cpu_multi_thread_eigen=false')
    assert simulating(3) == f'--xla_cpu_multi_thread_eigen=false {flag}=3'


def test_the_input_alone_is_measured_and_says_how_many_chips_it_feeds(tmp_path):
    experiment = load_config('lstm_copy_memory')
    source = find_data(experiment, cache_dir=tmp_path)
    assert source.prepared is not None
    found = measure_input(experiment, source, steps=2, repeats=3, step_seconds=0.5, chips=4)
    pace = found['seconds_per_batch']['median']
    assert found['feeds_chips']['chips'] == pytest.approx(4 * 0.5 / pace)
    assert found['examples_per_second'] == pytest.approx(found['examples_per_batch'] / pace)
    assert found['examples_per_second_per_core'] > 0
    assert math.isfinite(found['tokens_per_second'])
    with pytest.raises(UserError, match='pipeline of real data'):
        measure_input(experiment, SYNTHETIC, steps=2, repeats=1)


@pytest.mark.slow
def test_the_command_measures_each_number_of_devices_in_a_fresh_process(tmp_path, monkeypatch):
    overrides = [f'--{name.replace("_", "-")}={value}' for name, value in TINY.items()]
    overrides = [word for word in overrides if 'buckets' not in word]
    words = ['bench', 'transformer_tiny_numerals', *overrides, '--devices', '1,2', '--steps', '2']
    words += ['--repeats', '2', '--synthetic', '--json']
    monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # what takes long is compiling
    # Whoever starts them must not take the devices that they are to measure.
    program = (
        'import sys; from seqzoo.__main__ import main; status = main(sys.argv[1:]); '
        'from jax._src import xla_bridge; sys.exit(status or len(xla_bridge._backends))'
    )
    words = [sys.executable, '-c', program, *words, '--output', str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kinds = [(m['scaling'], m['devices'], m['tokens_per_round']) for m in found['measurements']]
    assert kinds == [('strong', 1, 128), ('strong', 2, 128)]
    assert found['simulated']
    assert found['measurements'][0]['mfu'] is None
    for m in found['measurements']:
        assert len(m['tokens_per_second']['all']) == 2
        assert m['compile_seconds'] > 0
        low, high = m['tokens_per_second']['quartiles']
        assert 0 < low <= m['tokens_per_second']['median'] <= high
