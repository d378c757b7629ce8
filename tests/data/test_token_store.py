import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqzoo.data import token_store
from seqzoo.data.token_store import TokenStore, TokenStoreWriter
from seqzoo.errors import UserError

SENTENCES = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), max_size=20)


@given(SENTENCES, st.integers(1, 12))
def test_disk_and_memory_hold_the_same(tmp_path_factory, sentences, at_once):
    folder = tmp_path_factory.mktemp('store') / 'deep' / 'store'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, '_WRITE_AT_ONCE', at_once)
        with TokenStoreWriter(folder, {'made': 'here'}) as writer:
            writer.add_batch(sentences)
    memory, disk = TokenStore.from_sentences(sentences), TokenStore.open(folder)
    assert [s.tolist() for s in disk] == [s.tolist() for s in memory] == sentences
    assert disk.fingerprint == memory.fingerprint
    assert disk.lengths.tolist() == [len(s) for s in sentences]
    assert disk.metadata == {'made': 'here'}


def test_fingerprint_tells_sentence_bounds_apart():
    prints = {
        TokenStore.from_sentences(s).fingerprint for s in ([[1, 2]], [[1], [2]], [[1, 3]], [])
    }
    assert len(prints) == 4


def test_the_header_leaves_room_for_billions(tmp_path):
    for count in (0, 3, 10**11):
        with (tmp_path / str(count)).open('wb') as file:
            token_store._write_header(file, np.int64, count)
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 1


def test_a_failed_write_leaves_nothing(tmp_path):
    def sentences():
        yield [1]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), TokenStoreWriter(tmp_path / 'store') as writer:
        writer.add_batch(sentences())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_leaves_the_old_store(tmp_path):
    with TokenStoreWriter(tmp_path / 'store') as writer:
        writer.add([1, 2])
    with pytest.raises(ZeroDivisionError), TokenStoreWriter(tmp_path / 'store') as writer:
        _ = 1 / 0
    assert TokenStore.open(tmp_path / 'store')[0].tolist() == [1, 2]
    with TokenStoreWriter(tmp_path / 'store') as writer:
        writer.add([3])
    assert TokenStore.open(tmp_path / 'store')[0].tolist() == [3]
    assert [path.name for path in tmp_path.iterdir()] == ['store']
    assert not (tmp_path / 'store' / 'old').exists()


def test_pickling_a_mapped_store_copies_no_ids(tmp_path):
    with TokenStoreWriter(tmp_path / 'store') as writer:
        writer.add(np.arange(10_000))
    store = TokenStore.open(tmp_path / 'store')
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert pickle.loads(packed)[0].tolist() == list(range(10_000))
    memory = pickle.loads(pickle.dumps(TokenStore.from_sentences([[1], [2, 3]])))
    assert [s.tolist() for s in memory] == [[1], [2, 3]]


@pytest.mark.parametrize('damage', ['missing', 'cut', 'note'])
def test_a_damaged_store_is_refused(tmp_path, damage):
    with TokenStoreWriter(tmp_path / 'store') as writer:
        writer.add(np.arange(100))
    if damage == 'missing':
        (tmp_path / 'store' / 'ids.npy').unlink()
    elif damage == 'cut':
        path = tmp_path / 'store' / 'ids.npy'
        path.write_bytes(path.read_bytes()[:-40])
    else:
        (tmp_path / 'store' / 'store.json').write_text('{')
    with pytest.raises(UserError, match='delete it'):
        TokenStore.open(tmp_path / 'store')


def test_an_index_outside_is_an_error():
    store = TokenStore.from_sentences([[1], [2]])
    assert store[-1].tolist() == [2]
    with pytest.raises(IndexError):
        store[2]
