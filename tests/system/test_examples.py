"""The same run sees the same examples, however it runs: the digests of its steps prove it."""

import pytest

from seqzoo.training.events import read_events

pytestmark = pytest.mark.filterwarnings('ignore')


def digests(run):
    return {e['step']: e['examples_digest'] for e in read_events(run, 'train')}


@pytest.mark.slow
@pytest.mark.parametrize('packing', [False, True])
def test_meshes_accumulation_and_restarts_see_the_same_examples(train, tmp_path, packing):
    batch = ['--batch.packing=True'] if packing else ['--batch.fitted-buckets=2']
    log = '--train.log-every=1'
    assert train('whole', log, *batch, steps=6).status == 0
    other = ['--mesh.data=4', '--mesh.fsdp=2', '--train.accumulation=2']
    assert train('parts', log, *batch, *other, steps=2).status == 0
    assert train('parts', log, *batch, steps=6).status == 0
    whole = digests(tmp_path / 'whole')
    assert sorted(whole) == [1, 2, 3, 4, 5, 6]
    assert len(set(whole.values())) == 6
    assert digests(tmp_path / 'parts') == whole
