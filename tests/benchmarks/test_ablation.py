"""The ablation and the zoo: what is said of made-up rows, and once for real, as a toy."""

import argparse
import json
import pathlib
import subprocess

import numpy as np
import pytest

from seqzoo.configuration import load_config
from seqzoo.errors import UserError

RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


@pytest.fixture(scope='module')
def ablation(benchmark_program):
    return benchmark_program('ablation')


@pytest.fixture(scope='module')
def zoo(benchmark_program):
    return benchmark_program('zoo')


def row(name, seed, bleu, single, **searches):
    final = {f'test_{search}': {'bleu': value} for search, value in searches.items()}
    return {
        'name': f'ablation_{name}_seed{seed}',
        'seed': seed,
        'parameters': 1_831_424,
        'minutes': 15.0 + seed,
        'device': 'two cores',
        'versions': 'jax',
        'beam': 5,
        'alpha': 1.0,
        'signature': 'nrefs:1',
        'results': {
            'best_checkpoint': {'test': {'bleu': single}},
            'average_of_last_10': {'test': {'bleu': bleu}, **final},
        },
    }


def test_every_change_is_one_that_the_configuration_takes(ablation):
    base = load_config(ablation.CONFIG)
    for name, (_, changes) in ablation.CHANGES.items():
        flags = [word for path, value in changes.items() for word in (f'--{path}', value)]
        assert (load_config(ablation.CONFIG, flags) == base) is (name == ablation.BASE)
    # What was asked for: each of these things is changed somewhere.
    changed = {path for _, changes in ablation.CHANGES.values() for path in changes}
    assert changed >= {
        *('model.norm', 'task.label-smoothing', 'model.tie', 'model.scale-embeddings'),
        *('model.positions', 'task.tokenizer.vocab-size', 'model.dropout-rate'),
    }


def test_worth_is_a_mean_of_differences_seed_by_seed(ablation):
    searches = dict.fromkeys(ablation.SEARCHES, 30.0)
    rows = [
        row('base', 0, 30.0, 29.0, **searches),
        row('base', 1, 34.0, 33.5, **searches),
        row('post_norm', 0, 28.0, 20.0),
        row('post_norm', 1, 31.0, 20.0),
    ]
    table = {line['name']: line for line in ablation.worth(rows)}
    assert table['post_norm']['differences'] == [-2.0, -3.0]
    assert table['single']['differences'] == [-1.0, -0.5]
    assert table['greedy']['differences'] == [0.0, -4.0]
    assert table['base']['differences'] == []
    text = ablation.render(list(table.values()), rows)
    assert '| post-norm | 29.50 ± 2.12 | -2.50 ± 0.71 | 2 | 1,831,424 | 16 |' in text
    assert 'nrefs:1' in text


def test_the_picture_is_drawn_of_what_there_is(ablation, tmp_path):
    rows = [row('base', 0, 30.0, 29.0, **dict.fromkeys(ablation.SEARCHES, 29.9))]
    ablation.draw(ablation.worth(rows), tmp_path / 'a.png')
    assert (tmp_path / 'a.png').stat().st_size > 5000
    ablation.draw([], tmp_path / 'b.png')
    assert not (tmp_path / 'b.png').exists()


def test_a_budget_is_what_a_run_has_left(ablation, tmp_path):
    assert ablation.remaining(tmp_path / 'none', 15.0) == 15.0
    assert ablation.remaining(tmp_path, 0.0) is None
    event = {'kind': 'train', 'step': 5, 'seconds': 300.0, 'time': 0.0}
    (tmp_path / 'metrics.jsonl').write_text(json.dumps(event) + '\n')
    assert ablation.remaining(tmp_path, 15.0) == 10.0


def test_the_zoo_page_is_what_the_rows_say(zoo, benchmark_program):
    rows = benchmark_program('rows')
    wanted = zoo.page(rows.quality_rows())
    assert (RESULTS / 'zoo.md').read_text('utf-8') == wanted, 'run python benchmarks/zoo.py'
    assert 'Transformer: ' in wanted
    assert 'recurrent: ' in wanted


def test_operations_of_a_row_are_those_of_its_command(zoo, benchmark_program):
    name, options = 'transformer_tiny_multi30k_ende:twenty_minutes', '--model.num-layers 2 --seed 4'
    commands = benchmark_program('commands')
    experiment = commands.experiment_of(f'X=1 seqzoo train {name} {options} --run R')
    assert (experiment.seed, experiment.model.num_layers) == (4, 2)
    whole = zoo.training_flops(experiment, 4000)
    assert zoo.training_flops(experiment, 1000) == pytest.approx(whole / 4)


@pytest.mark.slow
def test_a_toy_is_trained_measured_and_taken_up(ablation, tmp_path, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    words = [a + b for a in 'bdgl' for b in 'aeiou']
    (tmp_path / 'multi30k').mkdir()
    for split, count in (('train', 120), ('val', 10), ('test_2016_flickr', 10)):
        lines = [' '.join(generator.choice(words, size=5)) for _ in range(count)]
        for language, text in (('en', lines), ('de', [line.upper() for line in lines])):
            file = tmp_path / 'multi30k' / f'{split}.{language}'
            file.write_text('\n'.join(text) + '\n', 'utf-8')
    monkeypatch.setattr(ablation, 'SEARCHES', {'greedy': ablation.SEARCHES['greedy']})
    words = [
        *('--folder', str(tmp_path / 'runs'), '--data-dir', str(tmp_path), '--seeds', '1'),
        *('--cache-dir', str(tmp_path / 'cache'), '--results', str(tmp_path / 'rows')),
        *('--steps', '10', '--minutes', '5', '--only', 'base', '--decode.extra-length', '2'),
        *('--model.num-layers=1', '--model.embed-dim=16', '--model.mlp-dim=16'),
        *('--model.num-heads=2', '--task.tokenizer.kind=word', '--task.tokenizer.vocab-size=64'),
        *('--batch.tokens=256', '--batch.max-length=16', '--batch.fitted-buckets=1'),
        *('--train.snapshot-every=1', '--train.log-every=5', '--schedule.warmup-steps=2'),
    ]
    assert ablation.main(words) == 0
    assert '| greedy |' in capsys.readouterr().out
    made = sorted(path.name for path in (tmp_path / 'rows').iterdir())
    assert made == [
        'ablation.md',
        'ablation.png',
        'ablation_base_seed0.json',
    ]
    found = json.loads((tmp_path / 'rows' / 'ablation_base_seed0.json').read_text())
    assert '--train.max-minutes 5 --run R' in found['command']
    assert found['tokens'] > 0
    assert found['corpus_fingerprint']
    assert found['trained_at_commit']
    assert 'jaxlib' in found['versions']
    assert 'bleu_moses' in found['results']['average_of_last_10']['test_ladder']

    def never(*words, **options):
        raise AssertionError('what has a row is not trained again')

    monkeypatch.setattr(ablation.subprocess, 'run', never)
    ablation.main(words)


@pytest.mark.parametrize('option', ['--seeds', '--steps'])
def test_no_runs_and_no_updates_are_refused(ablation, option, tmp_path, capsys):
    words = ['--folder', str(tmp_path), '--data-dir', str(tmp_path)]
    with pytest.raises(SystemExit):
        ablation.main([*words, '--results', str(tmp_path / 'results'), option, '0'])
    assert 'not a whole number from 1 on' in capsys.readouterr().err
    assert not (tmp_path / 'results').exists()


def test_a_row_of_another_command_is_not_mixed_in(ablation, tmp_path):
    (tmp_path / 'ablation_base_seed0.json').write_text(json.dumps({'command': 'seqzoo train x'}))
    words = ['--folder', str(tmp_path / 'runs'), '--data-dir', str(tmp_path)]
    with pytest.raises(UserError, match='is of another command'):
        ablation.main([*words, '--results', str(tmp_path), '--only', 'base', '--seeds', '1'])


def test_a_change_that_cannot_be_trained_is_named_and_the_others_go_on(
    ablation, tmp_path, monkeypatch, capsys
):
    begun = []

    def refused(words, **options):
        begun.append(words[words.index('--run') + 1])
        return subprocess.CompletedProcess(words, 2)

    monkeypatch.setattr(ablation.subprocess, 'run', refused)
    words = ['--folder', str(tmp_path / 'runs'), '--data-dir', str(tmp_path), '--seeds', '1']
    words += ['--results', str(tmp_path / 'rows'), '--only', 'base,post_norm', '--steps', '30']
    assert ablation.main(words) == 2
    assert [pathlib.Path(run).name for run in begun] == ['base_seed0', 'post_norm_seed0']
    said = capsys.readouterr().err
    assert 'not trained: base, seed 0: its training left with status 2' in said
    assert 'not trained: post_norm, seed 0: ' in said


@pytest.mark.parametrize('status', [75, 130])
def test_a_change_that_somebody_stopped_stops_the_others(ablation, tmp_path, monkeypatch, status):
    def stopped(words, **options):
        return subprocess.CompletedProcess(words, status)

    monkeypatch.setattr(ablation.subprocess, 'run', stopped)
    words = ['--folder', str(tmp_path / 'runs'), '--data-dir', str(tmp_path), '--seeds', '1']
    with pytest.raises(SystemExit) as left:
        ablation.main([*words, '--results', str(tmp_path / 'rows')])
    assert left.value.code == status


def test_a_schedule_without_an_end_is_given_none(ablation):
    for config, decays in ((ablation.CONFIG, True), ('transformer_tiny_text', False)):
        given = argparse.Namespace(config=config, steps=3_000)
        words = ablation.command('base', 0, given, [])
        assert ('--schedule.decay-steps' in words) is decays
        load_config(config, words[3:])


def test_an_ablation_of_nothing_begins_nothing(ablation, tmp_path):
    words = ['--folder', str(tmp_path), '--data-dir', str(tmp_path), '--config', 'nothing']
    with pytest.raises(UserError, match='nothing'):
        ablation.main([*words, '--results', str(tmp_path / 'rows')])
    assert not (tmp_path / 'rows').exists()
