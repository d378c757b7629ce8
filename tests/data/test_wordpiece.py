"""WordPiece: pieces as transformers cuts them, the same vocabulary each time, files."""

import os
import pickle

import pytest

from seqzoo.data.encoding import load_text_tokenizer, save_text_tokenizer
from seqzoo.data.wordpiece import SPECIALS, WordPiece, WordPieceConfig, train_wordpiece
from seqzoo.errors import UserError

if os.environ.get('SEQZOO_REQUIRE_PARITY') == '1':
    import transformers
else:
    transformers = pytest.importorskip('transformers')

TEXT = [
    "Let's make fried chicken! It tastes great with orange sauce.",
    'Chickens are making unmade sauces; oranges unmake them, Über-great.',
    '',
    'A caf\xe9 (the greatest) makes 12 chickens a day … 漢字',
] * 3
HARD = [
    'unmakes CAFÉ-sauces!!',
    'Let\'s make [MASK] chicken! [SEP] It [MASK] great "\u2018quoted\u2019"',
    'xyz\u0000\u200bq \t 漢字字 ' + 'a' * 120,
    '  ',
    'naïve [mask] [UNK] 1.5',
]


@pytest.fixture(scope='module')
def tokenizer():
    return train_wordpiece(TEXT, WordPieceConfig(vocab_size=90))


@pytest.mark.parametrize('lowercase', [True, False])
def test_pieces_are_those_of_transformers(tokenizer, tmp_path, lowercase):
    file = tmp_path / 'vocab.txt'
    file.write_text('\n'.join(tokenizer.entries) + '\n', encoding='utf-8')
    ours = WordPiece.from_vocabulary_file(file, lowercase=lowercase)
    theirs = transformers.BertTokenizer(vocab=str(file), do_lower_case=lowercase)
    for line in [*TEXT, *HARD]:
        wanted = theirs.encode(line, add_special_tokens=False)
        assert ours.encode(line).tolist() == wanted, line
    words = ['chickens', '\u0000', 'Über', "n't"]
    assert [ids.tolist() for ids in ours.encode_words(words)] == [
        theirs.encode(word, add_special_tokens=False) or [ours.unk_id] for word in words
    ]


def test_training_gives_the_same_pieces_each_time_and_no_more_than_were_asked_for(tokenizer):
    again = train_wordpiece(TEXT, WordPieceConfig(vocab_size=90))
    assert again.entries == tokenizer.entries
    assert again.fingerprint == tokenizer.fingerprint
    assert tokenizer.vocab_size == 90
    assert tokenizer.entries[:5] == SPECIALS
    whole = tokenizer.encode(' '.join(TEXT))
    assert tokenizer.unk_id not in whole
    assert tokenizer.decode(tokenizer.encode('great oranges')) == 'great oranges'
    assert not set(tokenizer.ordinary) & {tokenizer.mask_id, tokenizer.pad_id, tokenizer.unk_id}
    rare = train_wordpiece(TEXT, WordPieceConfig(vocab_size=60, alphabet=10))
    assert '漢' not in rare.entries
    assert rare.encode('漢').tolist() == [rare.unk_id]


def test_a_run_keeps_the_vocabulary(tokenizer, tmp_path):
    save_text_tokenizer(tokenizer, tmp_path)
    loaded = load_text_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    line = TEXT[1]
    assert (
        loaded.encode(line).tolist() == pickle.loads(pickle.dumps(tokenizer)).encode(line).tolist()
    )
    first, second = loaded.encode_text(['great', 'sauce'])
    assert first[-1] == loaded.line_end
    assert loaded.decode_text([*first, *second]) == 'great\nsauce\n'


def test_a_damaged_cache_is_made_anew(tmp_path, caplog):
    config = WordPieceConfig(vocab_size=60)
    first = train_wordpiece(TEXT, config, cache_dir=tmp_path)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    assert train_wordpiece(TEXT, config, cache_dir=tmp_path).fingerprint == first.fingerprint
    assert file.read_bytes() == whole
    assert 'the cache is damaged' in caplog.text


def test_damaged_and_foreign_files_are_refused(tokenizer, tmp_path):
    file = tmp_path / 'wordpiece.json'
    tokenizer.save(file)
    file.write_text(file.read_text().replace('"great"', '"grate"'))
    with pytest.raises(UserError, match='damaged'):
        WordPiece.load(file)
    file.write_text('[]')
    with pytest.raises(UserError, match='holds no WordPiece vocabulary'):
        WordPiece.load(file)
    with pytest.raises(UserError, match='cannot be read'):
        WordPiece.load(tmp_path / 'none')
    listed = tmp_path / 'vocab.txt'
    listed.write_text('[PAD]\n[UNK]\na\n')
    with pytest.raises(UserError, match=r'vocab\.txt: .* lacks \[CLS\] and \[SEP\] and \[MASK\]'):
        WordPiece.from_vocabulary_file(listed, lowercase=True)
    with pytest.raises(UserError, match='there is no text'):
        train_wordpiece(['', ' '], WordPieceConfig())
