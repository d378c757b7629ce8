"""Recorded rows: each says what it takes to have it again, and the tables say what the rows say."""

import copy
import json
import pathlib
import types
from dataclasses import replace
from unittest import mock

import pytest

from seqzoo.configuration import load_config
from seqzoo.errors import UserError
from seqzoo.scoring import scorers
from seqzoo.tasks.translation import PreparedTranslation

RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


@pytest.fixture(scope='module')
def rows(benchmark_program):
    return benchmark_program('rows')


@pytest.fixture(scope='module')
def facts_of_runs(benchmark_program):
    return benchmark_program('facts_of_runs')


@pytest.fixture(scope='module')
def tables(benchmark_program):
    return benchmark_program('tables')


@pytest.fixture
def row(rows):
    """One translation."""
    return json.loads((RESULTS / 'multi30k_20min.json').read_text('utf-8'))


def test_every_recorded_row_is_complete_and_says_why_a_field_is_empty(rows):
    found = list(rows.quality_rows())
    assert len(found) >= 25
    for one in found:
        assert rows.problems(one) == [], one['name']
        assert rows.finish(one) == one, f'run python benchmarks/rows.py ({one["name"]})'
        assert (RESULTS / f'{one["name"]}.json').read_text('utf-8') == rows.as_text(one)


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({'signature': None}, 'signature is missing'),
        ({'seed': None}, 'seed must be said'),
        ({'steps': '3843'}, 'another type'),
        ({'seed': True}, 'another type'),
        ({'casing': 'any'}, 'mixed or lower'),
        ({'split': 'dev2'}, 'not among the results'),
        ({'tokens': 7}, 'null_because says that it is not'),
        ({'null_because': {}}, 'null_because does not say why'),
        ({'command': ''}, 'command must be said'),
        ({'results': []}, 'another type'),
        ({'results': {'best_checkpoint': 3}}, 'not by kind of parameters'),
    ],
)
def test_a_row_that_could_mislead_is_refused(rows, row, change, problem):
    assert any(problem in one for one in rows.problems({**row, **change}))


@pytest.fixture
def conv():
    """A row with everything: a ladder, fingerprints, commits."""
    return json.loads((RESULTS / 'multi30k_conv_s2s.json').read_text('utf-8'))


CONV = 'seqzoo train conv_seq2seq_tiny_multi30k_ende --run R'


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({'casing': 'lower'}, 'casing is lower, and the signature'),
        ({'signature': 'nrefs:1|case:mixed|tok:none'}, 'not that of the results'),
        ({'steps': -5}, 'steps is -5, less than 1'),
        ({'steps': 3000}, 'after the last, 3000'),
        ({'steps': 9000}, 'the command ends at 4000'),
        ({'parameters': 0}, 'parameters is 0, less than 1'),
        ({'minutes': float('nan')}, 'minutes is nan, which is no number'),
        ({'minutes': -1.0}, 'less than 0'),
        ({'averaging': 5}, 'averaging is 5, and the headline'),
        ({'corpus_fingerprint': 'f00'}, 'not that of the training data in identity'),
        ({'corpus': 'iwslt'}, 'corpus and direction are'),
        ({'name': 'conv_seed3'}, 'the name is of seed 3'),
        ({'command': 'x'}, 'not of the form seqzoo train CONFIG'),
        ({'command': 'seqzoo train "x'}, 'command trains nothing'),
        ({'command': 'seqzoo train no_such_thing --run R'}, 'no_such_thing'),
        ({'command': 'seqzoo train lstm_ptb --run R'}, 'that of the command'),
        (
            {'command': 'seqzoo train bytenet_tiny_multi30k_ende --run R --train.steps 4000'},
            'the row is of conv_seq2seq_tiny_multi30k_ende, and its command trains another',
        ),
        ({'command': f'{CONV} --seed 7'}, 'seed is 0, and that of the command 7'),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(rows, conv, change, problem):
    found = rows.problems(rows.finish({**conv, **change}))
    assert any(problem in one for one in found), found


def test_a_score_is_that_of_its_ladder(rows, conv):
    test = conv['results']['best_checkpoint']['test']
    test['bleu'] = 99.0
    assert 'bleu of best_checkpoint is 99.0, and 36.8' in rows.problems(rows.finish(conv))[0]
    test['bleu'] = float('inf')
    assert 'results.best_checkpoint.test.bleu is inf' in rows.problems(rows.finish(conv))[0]


def test_another_tokenizer_than_the_tasks_needs_another_command(rows, conv):
    test = conv['results']['best_checkpoint']['test']
    test['bleu'], test['signature'] = 99.0, 'nrefs:1|case:mixed|eff:no|tok:char|smooth:exp'
    conv['signature'] = test['signature']
    assert 'the command tokenizes by 13a' in rows.problems(rows.finish(conv))[0]
    conv['command'] += ' --task.bleu-tokenizer char'  # the ladder has no such BLEU
    assert rows.problems(rows.finish(conv)) == []


def test_nothing_is_filled_in_that_a_row_does_not_say(rows, conv):
    for field in rows.FIELDS:
        less = {name: value for name, value in conv.items() if name != field}
        assert f'{field} is missing' in rows.problems(rows.finish(less))
    # A recorder's row has no reasons yet; also there only a null is a thing that is not known.
    fresh = {k: v for k, v in conv.items() if k not in ('null_because', 'device')}
    assert 'device is missing' in rows.problems(rows.finish(fresh))
    assert rows.problems(rows.finish({**fresh, 'device': None})) == []


def test_a_reason_is_the_one_that_holds(rows, conv):
    lacks = {'direction': None, 'null_because': {'direction': 'does not apply'}}
    assert "the reason is 'not recorded'" in rows.problems({**conv, **lacks})[0]


@pytest.mark.parametrize('field', ['parameters', 'results'])
def test_a_row_without_a_field_does_not_vanish(rows, tables, conv, tmp_path, field):
    del conv[field]
    (tmp_path / 'multi30k_conv_s2s.json').write_text(json.dumps(conv))
    assert [row['name'] for row in rows.quality_rows(tmp_path)] == ['multi30k_conv_s2s']
    with pytest.raises(UserError, match=f'multi30k_conv_s2s: {field} is missing'):
        rows.sound_rows(tmp_path)


def test_a_file_that_is_no_row_of_its_name_is_named(rows, conv, tmp_path):
    (tmp_path / 'other.json').write_text(json.dumps(conv))
    with pytest.raises(UserError, match=r'other.json is a row named .multi30k_conv_s2s'):
        rows.sound_rows(tmp_path)
    (tmp_path / 'other.json').write_text('{')
    with pytest.raises(UserError, match=r'other.json is not JSON'):
        rows.sound_rows(tmp_path)


def test_an_old_row_is_brought_into_the_form_without_guessing(rows):
    old = {
        'name': 'x', 'what': 'a run', 'note': '', 'seed': 3,
        'command': 'seqzoo train transformer_tiny_multi30k_ende --seed 3 '
        '--task.target-language fr',
        'data': 'multi30k en-fr', 'identity': {'tokenizer': 'ab'}, 'parameters': 7, 'steps': 5,
        'minutes': 1.5, 'decode': 'greedy', 'published': ': ', 'machine': '2 cores',
        'versions': 'jax 1', 'commit': 'abc', 'date': '2026-01-01',
        'results': {'average_of_last_5': {'test': {
            'bleu': 3.0, 'exact_match': 0.0, 'signature': 'nrefs:1|case:lc|tok:13a'}}},
    }  # fmt: skip
    new = rows.finish(copy.deepcopy(old))
    assert (new['corpus'], new['direction']) == ('multi30k', 'en-fr')
    assert (new['averaging'], new['beam'], new['casing']) == (5, 1, 'lower')
    assert (new['split'], new['headline'], new['measure']) == ('test', 'average_of_last_5', 'bleu')
    assert new['published'] is None
    assert new['recorded_at_commit'] == 'abc'
    assert new['null_because'] == {
        'corpus_fingerprint': 'not recorded',
        'tokens': 'not recorded',
        'trained_at_commit': 'not recorded',
        'alpha': 'does not apply',
    }
    assert rows.problems(new) == []
    assert rows.finish(new) == new


def test_a_row_is_written_only_if_it_is_complete(rows, row, tmp_path):
    assert json.loads(rows.write(row, tmp_path).read_text('utf-8')) == row
    with pytest.raises(UserError, match='command must be said'):
        rows.write({**row, 'command': ''}, tmp_path)


def with_bleu(row, name, seed, value):
    new = copy.deepcopy(row)
    new |= {'name': name, 'seed': seed}
    new['results'][new['headline']]['test']['bleu'] = value
    return new


def test_rows_of_several_seeds_stand_as_one_with_their_deviation(tables, row):
    seeds = [with_bleu(row, f'm_seed{i}', i, value) for i, value in enumerate((30.0, 31.0, 32.0))]
    (members,) = tables.by_group(seeds).values()
    assert tables.figure(members) == '31.0 sacreBLEU, cased (± 1, 3 seeds)'
    assert len(tables.by_group([*seeds, with_bleu(row, 'other', 0, 1.0)])) == 2
    seeds[1]['beam'] = 4
    with pytest.raises(UserError, match='differ in beam'):
        tables.by_group(seeds)


def test_seeds_are_seeds(tables, row):
    def seeds(**second):
        return [
            with_bleu(row, 'z_seed0', 0, 30.0),
            {**with_bleu(row, 'z_seed1', 1, 31.0), **second},
        ]

    assert len(tables.by_group(seeds(command=f'{row["command"]} --seed 1'))) == 1
    with pytest.raises(UserError, match='have the same seed'):
        tables.by_group(seeds(seed=0))
    with pytest.raises(UserError, match='z_seed1 is of seed 5'):
        tables.by_group(seeds(seed=5))
    with pytest.raises(UserError, match='differ in more than --seed'):
        tables.by_group(seeds(command=f'{row["command"]} --seed 1 --model.dropout-rate 0.5'))


def starts(folder, *notes):
    lines = [{'kind': 'start', 'step': step, **note} for step, note in enumerate(notes)]
    (folder / 'metrics.jsonl').write_text(''.join(f'{json.dumps(one)}\n' for one in lines))
    return folder


def noted(device, commit, jax='0.10.2'):
    versions = {'python': '3.11.7', 'jax': jax, 'optax': None}
    return {'device': device, 'versions': versions, 'commit': commit}


NOBODY = {'device': None, 'versions': None, 'commit': None}


def test_a_row_says_what_the_training_noted_and_not_where_it_is_recorded(facts_of_runs, tmp_path):
    run = starts(tmp_path, noted('1 x NVIDIA H200', 'abc1234-dirty'))
    assert facts_of_runs.trained_on(run, **NOBODY) == {
        'device': '1 x NVIDIA H200',
        'versions': 'Python 3.11.7, jax 0.10.2',
        'trained_at_commit': 'abc1234-dirty',
    }
    assert facts_of_runs.trained_on(run, **NOBODY | {'commit': 'abc1234def'})[
        'trained_at_commit'
    ] == ('abc1234-dirty')
    for told in ({'commit': '9999999'}, {'device': '2 cores'}, {'versions': 'jax 0.9'}):
        with pytest.raises(UserError, match=f'says that its {next(iter(told))} was'):
            facts_of_runs.trained_on(run, **NOBODY | told)


def test_a_run_of_several_devices_and_sources_says_all_of_them(facts_of_runs, tmp_path):
    parts = (noted('4 x T', 'aaa'), noted('4 x T', 'aaa'), noted('1 x H', 'bbb', jax='0.11'))
    found = facts_of_runs.trained_on(starts(tmp_path, *parts), **NOBODY)
    assert found['device'] == '4 x T, then 1 x H'
    assert found['trained_at_commit'] == 'aaa, then bbb'
    assert found['versions'] == 'Python 3.11.7, jax 0.10.2, then Python 3.11.7, jax 0.11'
    part = starts(tmp_path, {}, noted('1 x H', 'bbb'))
    assert facts_of_runs.trained_on(part, **NOBODY)['device'] == 'not recorded, then 1 x H'
    told = facts_of_runs.trained_on(part, **NOBODY | {'device': '4 x T'})
    assert told['device'] == '4 x T, then 1 x H'


def test_what_an_old_run_did_not_note_is_what_is_told_or_nothing(facts_of_runs, tmp_path):
    run = starts(tmp_path, {'devices': 1, 'backend': 'cpu'})
    found = facts_of_runs.trained_on(run, **NOBODY)
    assert found == {'device': None, 'versions': None, 'trained_at_commit': None}
    assert facts_of_runs.trained_on(run, **NOBODY | {'commit': 'abc'})['trained_at_commit'] == 'abc'


def test_a_command_that_trains_something_else_is_refused(benchmark_program):
    commands = benchmark_program('commands')
    name = 'transformer_tiny_numerals'
    prepared = mock.Mock(spec=PreparedTranslation, tokenizers=mock.Mock())
    prepared.tokenizers.target.vocab_size = 40
    saved = load_config(name, {'train.max_minutes': 2.0, 'seed': 3})
    saved = replace(saved, model=saved.task.resolve(saved.model, prepared))
    run = types.SimpleNamespace(path='RUN', experiment=saved, prepared=prepared)
    seed = f'seqzoo train {name} --seed 3'
    commands.refuse_other(f'{seed} --train.max-minutes 5 --run R --data-dir D', run)
    for command, difference in (
        (seed, 'train.max_minutes'),
        (f'seqzoo train {name} --train.max-minutes 2', 'seed: 0 -> 3'),
        (f'{seed} --train.max-minutes=5 --model.num-layers 1', 'model.num_layers'),
        ('make demo', 'seed: 0 -> 3'),
    ):
        with pytest.raises(UserError, match=difference):
            commands.refuse_other(command, run)
    with pytest.raises(UserError, match='has no option'):
        commands.refuse_other(f'{seed} --sede 3', run)


def test_published_numbers_stand_beside_ours_with_their_tag(tables, row):
    published = json.loads((RESULTS / 'published.json').read_text('utf-8'))
    names = {scorer.name for scorer in scorers()}
    for one in published:
        assert one['source'] in ('verified', 'secondary', 'memory')
        assert all(one[field] for field in ('paper', 'system', 'result', 'split'))
        assert not one['score'] or one['score'] in names
        if 'BLEU' in one['result']:
            assert one['direction']
            assert one['casing'] in ('mixed', 'lower')
    page = tables.results_page([row], published)
    section = page.split('## multi30k en-de')[1].split('\n## ')[0]
    assert '37.5 sacreBLEU, cased' in section
    assert 'not recorded' in section
    assert row['command'] in section
    assert 'Wu et al. 2021: Transformer-tiny' in section
    assert (
        '| 41.02 BLEU | test_2016_flickr | lower | bleu_tokenized_lowercase | verified |' in section
    )
