"""Recorded rows: each says what it takes to have it again, and the tables say what the rows say."""

import copy
import json
import pathlib

import pytest

from seqzoo.scoring import scorers

RESULTS = pathlib.Path(__file__).resolve().parents[2] / 'benchmarks' / 'results'


@pytest.fixture(scope='module')
def rows(benchmark_program):
    return benchmark_program('rows')


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
    ],
)
def test_a_row_that_could_mislead_is_refused(rows, row, change, problem):
    assert any(problem in one for one in rows.problems({**row, **change}))


def test_an_old_row_is_brought_into_the_form_without_guessing(rows):
    old = {
        'name': 'x', 'what': 'a run', 'command': 'seqzoo train y', 'note': '', 'seed': 3,
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
    with pytest.raises(ValueError, match='command must be said'):
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
    with pytest.raises(ValueError, match='differ in beam'):
        tables.by_group(seeds)


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
