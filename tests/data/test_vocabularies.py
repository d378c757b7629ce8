"""Closed vocabularies: the characters or the words of a text, and nothing that it does not have."""

import json

import numpy as np
import pytest

from seqzoo.configuration import from_json, override, to_json
from seqzoo.data.encoding import (
    encode_text_cached,
    load_text_tokenizer,
    make_text_tokenizer,
    save_text_tokenizer,
)
from seqzoo.data.plain_text import CutFile, SplitFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.data.vocabularies import Characters, Vocabulary, Words, build_vocabulary
from seqzoo.errors import UserError
from seqzoo.tasks.language_modeling import LanguageModeling

LINES = ['the cat sat', '', 'on the Mat!']


def stream(tokenizer, lines=LINES):
    return np.concatenate(tokenizer.encode_text(lines))


def test_every_character_is_an_entry_and_the_text_comes_back():
    vocabulary = build_vocabulary(LINES, Characters())
    text = 'the cat sat\n\non the Mat!\n'
    assert set(vocabulary.entries) == set(text)
    assert vocabulary.decode_text(stream(vocabulary)) == text
    assert vocabulary.entries[vocabulary.line_end] == '\n'
    assert vocabulary.stop_id == vocabulary.line_end


def test_letters_only_folds_all_else_into_single_spaces():
    config = Characters(letters_only=True, unknown=True)
    lines = ['The Time-Machine,', '', '  by H. G. Wells [1898]']
    vocabulary = build_vocabulary(lines, config)
    assert vocabulary.decode_text(stream(vocabulary, lines)) == 'the time machine by h g wells '
    assert vocabulary.stop_id is None  # a space ends no line
    # A prompt keeps the space behind it: another token follows there.
    assert len(vocabulary.encode('the ')) == len(vocabulary.encode('the')) + 1


def test_words_end_lines_and_stand_for_rarer_ones():
    vocabulary = build_vocabulary(['b a a', 'c b a', '<unk> a'], Words(vocab_size=4))
    assert vocabulary.entries == ('<unk>', '<eos>', 'a', 'b')
    ids = stream(vocabulary, ['a  c', 'never b'])
    assert vocabulary.pieces(ids) == ['a', '<unk>', '<eos>', '<unk>', 'b', '<eos>']
    assert vocabulary.decode_text(ids) == 'a <unk>\n<unk> b\n'
    # Running text is what it is; what somebody types may begin with a capital.
    assert vocabulary.pieces(vocabulary.encode('A Never b')) == ['a', '<unk>', 'b']
    assert vocabulary.pieces(stream(vocabulary, ['A'])) == ['<unk>', '<eos>']


def test_the_time_machine_has_28_entries(data_dir):
    book = CutFile(folder='time_machine', file='timemachine.txt', dev_share=0, test_share=0)
    lines = book.lines('train', data_dir)
    vocabulary = build_vocabulary(lines, Characters(letters_only=True, unknown=True))
    assert vocabulary.vocab_size == 28
    # As long as the text that the textbook makes of it.
    assert len(stream(vocabulary, list(lines))) == 173_428


def test_the_penn_treebank_has_10000_words(data_dir):
    files = SplitFiles(folder='ptb', train=('ptb.train.txt',), dev=('ptb.valid.txt',))
    train, dev = (files.lines(split, data_dir) for split in ('train', 'dev'))
    vocabulary = build_vocabulary(train, Words())
    assert vocabulary.vocab_size == 10_000
    assert {'<unk>', '<eos>', 'N'} <= set(vocabulary.entries)
    # Tokens of Zaremba et al. 2014.
    assert [len(stream(vocabulary, list(x))) for x in (train, dev)] == [929_589, 73_760]


def test_an_unknown_character_is_refused_or_has_its_entry():
    with pytest.raises(UserError, match=r"'é' in the line 'thé' .*--task.tokenizer.unknown true"):
        build_vocabulary(LINES, Characters()).encode('thé')
    lenient = build_vocabulary(LINES, Characters(unknown=True))
    assert lenient.encode('thé')[-1] == lenient.unk_id
    assert lenient.decode_text(lenient.encode('thé')) == 'th�'


def test_a_stated_size_must_be_that_of_the_text():
    with pytest.raises(UserError, match=r'is 65, but .* 12 different.*--task.tokenizer.vocab-size'):
        build_vocabulary(LINES, Characters(vocab_size=65))


def test_a_text_without_text_is_refused():
    for config in (Characters(), Words()):
        with pytest.raises(UserError, match='every training line is empty'):
            build_vocabulary(['', ' '], config)


@pytest.mark.parametrize(
    'config',
    [Characters(unknown=True), Words(vocab_size=4), TokenizerConfig(kind='bpe', vocab_size=20)],
)
def test_what_a_run_stores_gives_the_same_ids_again(config, tmp_path):
    made = make_text_tokenizer(LINES, config, tmp_path / 'cache')
    save_text_tokenizer(made, tmp_path)
    loaded = load_text_tokenizer(tmp_path)
    assert type(loaded) is type(made)
    assert loaded.fingerprint == made.fingerprint
    np.testing.assert_array_equal(stream(loaded), stream(made))
    store = encode_text_cached(LINES, loaded, tmp_path)
    np.testing.assert_array_equal(store.ids, stream(made))
    assert loaded.decode_text(store.ids).count('\n') == len(LINES)


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / 'vocabulary.json'
    build_vocabulary(LINES, Characters()).save(file)
    whole = file.read_text()
    file.write_text(whole[:-20])
    with pytest.raises(UserError, match='holds no vocabulary'):
        Vocabulary.load(file)
    note = json.loads(whole)
    note['entries'][:2] = note['entries'][1::-1]
    file.write_text(json.dumps(note))
    with pytest.raises(UserError, match='is damaged'):
        Vocabulary.load(file)
    file.unlink()
    with pytest.raises(UserError, match=r'vocabulary\.json'):
        load_text_tokenizer(tmp_path)


def test_other_entries_or_rules_have_another_fingerprint():
    texts = (LINES, [*LINES, 'x'])
    kinds = (Characters(), Characters(unknown=True), Characters(letters_only=True), Words())
    found = {build_vocabulary(text, kind).fingerprint for text in texts for kind in kinds}
    assert len(found) == len(texts) * len(kinds)


@pytest.mark.parametrize('tokenizer', [Characters(), Words(), TokenizerConfig()])
def test_a_task_takes_any_of_them_and_comes_back_from_json(tokenizer):
    task = override(LanguageModeling(tokenizer=tokenizer), ['--tokenizer.vocab-size', '77'])
    assert from_json(to_json(task)) == task
    assert task.nominal_vocab_size == 77
