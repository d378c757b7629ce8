"""Two processes of four devices each are one run: the same as one process of eight."""

import json
import os
import re

import numpy as np
import pytest

# Seconds each on a quiet machine; the limit is for a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Two minutes more; packing passes through all that buckets pass through.
THOROUGH = pytest.mark.skipif(
    'SEQZOO_THOROUGH' not in os.environ, reason='SEQZOO_THOROUGH=1 runs it too'
)
SEARCH = ['--decode.beams=2', '--decode.extra-length=2']
# Eight devices in two processes, eight in one, and four: the mesh takes what there is.
MESH = ['--mesh.data=1', '--mesh.fsdp=-1']


@pytest.fixture
def words(corpus, small, tmp_path):
    """The words of a training into a run folder up to a step."""
    kept = [word for word in small if '--mesh' not in word and '--train.log' not in word]

    def build(name, steps, *more):
        return [
            *('train', 'transformer_tiny_text', '--run', tmp_path / name, '--data-dir', corpus),
            *kept,
            *('--train.log-every=1', '--train.checkpoint-every=100', '--train.evaluate-every=0'),
            *MESH,
            f'--train.steps={steps}',
            *more,
        ]  # fmt: skip

    return build


def events(run, kind='train'):
    lines = (run / 'metrics.jsonl').read_text().splitlines()
    return [event for event in map(json.loads, lines) if event['kind'] == kind]


def well(outcomes):
    for outcome in outcomes:
        assert outcome.status == 0, outcome.err
    return outcomes


def silent(outcome):
    """Whether a process said nothing; XLA may warn."""
    said = [line for line in outcome.err.splitlines() if not re.match(r'[WE]\d{4} ', line)]
    return outcome.out == '' and not said


@pytest.mark.parametrize(
    'kind',
    [
        pytest.param(
            ['--batch.fitted-buckets=2', '--model.dropout-rate=0.1'], id='buckets', marks=THOROUGH
        ),
        pytest.param(['--batch.packing=true', '--train.accumulation=2'], id='packing'),
    ],
)
def test_any_number_of_processes_sees_the_same_examples_and_losses(words, launch, tmp_path, kind):
    well(launch(words('whole', 5, *kind), count=1).ends())
    first, second = well(launch(words('parts', 2, *kind)).ends())
    assert first.out == ''
    assert 'parameters on 8 cpu devices' in first.err
    assert silent(second)
    well(launch(words('parts', 3, *kind), count=1, devices=4).ends())
    well(launch(words('parts', 4, *kind), count=1).ends())
    well(launch(words('parts', 5, *kind)).ends())
    whole, parts = events(tmp_path / 'whole'), events(tmp_path / 'parts')
    assert [e['step'] for e in whole] == [e['step'] for e in parts] == [1, 2, 3, 4, 5]
    assert [e['examples_digest'] for e in whole] == [e['examples_digest'] for e in parts]
    np.testing.assert_allclose([e['loss'] for e in whole], [e['loss'] for e in parts], rtol=2e-5)
    assert [e['tokens'] for e in whole] == [e['tokens'] for e in parts]
    assert [e['devices'] for e in events(tmp_path / 'parts', 'start')] == [8, 4, 8, 8]


def test_two_processes_measure_and_predict_what_one_does(
    words, train, seqzoo, launch, corpus, tmp_path
):
    assert train(steps=2).status == 0
    run, source = tmp_path / 'run', tmp_path / 'source'
    source.write_text((corpus / 'test.en').read_text() + '\nba be bi bo bu\n')  # an empty line too
    evaluate = ['evaluate', run, '--data-dir', corpus, '--json', *SEARCH]
    alone = json.loads(seqzoo(*evaluate).out)
    first, second = well(launch(evaluate).ends())
    together = json.loads(first.out)
    assert silent(second)
    assert together['metrics'].pop('loss') == pytest.approx(alone['metrics'].pop('loss'), rel=1e-5)
    assert together == alone
    assert len(json.loads((run / 'results.json').read_text())) == 2  # each wrote one

    predict = ['predict', run, '--input', source, '--scores', *SEARCH]
    alone = [line.split('\t') for line in seqzoo(*predict).out.splitlines()]
    first, second = well(launch(predict).ends())
    assert silent(second)
    together = [line.split('\t') for line in first.out.splitlines()]
    assert [text for _, text in together] == [text for _, text in alone]
    scores = [[float(score) for score, _ in lines] for lines in (together, alone)]
    np.testing.assert_allclose(*scores, atol=2e-4)
    given = ['predict', run, '--input', source, '--target', source]
    first, second = well(launch(given).ends())
    assert silent(second)
    expected = [float(line.split('\t')[0]) for line in seqzoo(*given).out.splitlines()]
    found = [float(line.split('\t')[0]) for line in first.out.splitlines()]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_doctor_meets_the_other_process(launch):
    for number, outcome in enumerate(well(launch(['doctor', '--json']).ends(60))):
        found = {f['name']: f for f in json.loads(outcome.out)['findings']}
        assert found['workers']['text'].startswith('all 2 are there')
        assert found['worker versions']['status'] == 'ok'
        assert f'process {number} of 2, with 4 of 8 devices' in found['processes']['text']
