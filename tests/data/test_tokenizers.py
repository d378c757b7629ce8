import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from seqzoo.data import tokenizers
from seqzoo.data.numerals import numerals
from seqzoo.data.tokenizers import (
    Tokenizer,
    TokenizerConfig,
    train_tokenizer,
    train_tokenizer_pair,
)
from seqzoo.errors import UserError

LINES = [pair[side] for side in (0, 1) for pair in list(numerals('train'))[:2000]]
HARD = ['½ … ﬁ ２ \u00a0x', 'naïve Straße', 'tab\there', 'e\u0301 is not é', '\u0085 and \u2028']


@pytest.fixture(scope='module')
def tokenizer():
    return train_tokenizer(LINES, TokenizerConfig(vocab_size=200))


def test_special_ids_and_size(tokenizer):
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (0, 200)
    assert len({tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}) == 4
    assert tokenizer.pieces([0, 1, 2, 3]) == ['<pad>', '<unk>', '<s>', '</s>']


@pytest.mark.parametrize('kind', ['bpe', 'unigram', 'char', 'word'])
def test_text_comes_back_from_every_kind(kind):
    size = {'word': 4000, 'char': 100, 'unigram': 50}.get(kind, 120)
    lines = LINES[:400]
    own = train_tokenizer(lines, TokenizerConfig(kind=kind, vocab_size=size))
    assert own.vocab_size <= size
    assert [own.decode(own.encode(line)) for line in lines] == lines


def test_characters_are_not_rewritten():
    own = train_tokenizer(LINES[:500] + HARD, TokenizerConfig(vocab_size=150))
    assert [own.decode(own.encode(line)) for line in HARD] == HARD
    assert own.decode(own.encode('  one   hundred ')) == 'one hundred'


def test_byte_fallback_spells_what_training_never_saw():
    own = train_tokenizer(LINES[:500], TokenizerConfig(vocab_size=400, byte_fallback=True))
    assert own.decode(own.encode('猫 ½')) == '猫 ½'
    assert own.unk_id not in own.encode('猫 ½')


def test_encode_is_int32_without_specials(tokenizer):
    ids = tokenizer.encode('one hundred and one')
    assert ids.dtype == np.int32
    assert not set(ids.tolist()) & {0, 2, 3}
    assert tokenizer.encode('').shape == (0,)
    batch = tokenizer.encode_batch(['one', '', 'two'])
    assert [
        len(b) == len(tokenizer.encode(s)) for b, s in zip(batch, ['one', '', 'two'], strict=True)
    ]


def test_decode_stops_at_the_end_marker_and_drops_padding(tokenizer):
    ids = tokenizer.encode('one hundred').tolist()
    row = [tokenizer.bos_id, *ids, tokenizer.eos_id, *ids, 0, 0]
    assert tokenizer.decode(np.array(row)) == 'one hundred'
    assert tokenizer.decode([0, *ids, 0]) == 'one hundred'
    assert tokenizer.decode([]) == ''
    assert tokenizer.decode_batch([row, []]) == ['one hundred', '']


def test_special_names_in_text_are_text(tokenizer):
    assert not set(tokenizer.encode('<s> </s> <pad>').tolist()) & {0, 2, 3}


def test_lowercase_folds_case():
    own = train_tokenizer(['Ein Haus', 'ein HAUS Ä'], TokenizerConfig(kind='char', lowercase=True))
    assert own.decode(own.encode('EIN Ä HAUS')) == 'ein ä haus'


def test_a_vocabulary_beyond_the_text_names_the_largest_possible():
    with pytest.raises(UserError, match=r'supports at most \d+ pieces') as raised:
        train_tokenizer(LINES[:10], TokenizerConfig(vocab_size=30_000))
    largest = int(str(raised.value).split('at most ')[1].split()[0])
    assert train_tokenizer(LINES[:10], TokenizerConfig(vocab_size=largest)).vocab_size == largest
    with pytest.raises(UserError, match=str(largest)):
        train_tokenizer(LINES[:10], TokenizerConfig(vocab_size=largest + 1))


def test_a_vocabulary_below_the_characters_is_explained():
    with pytest.raises(UserError, match='characters of the training text'):
        train_tokenizer(LINES, TokenizerConfig(vocab_size=10))


def test_whatever_else_sentencepiece_refuses_is_said_in_one_line():
    # The mark by which SentencePiece writes spaces is no text: all lines are left out.
    with pytest.raises(UserError, match='SentencePiece cannot train a unigram') as raised:
        train_tokenizer(['\u2581'], TokenizerConfig(kind='unigram', vocab_size=8))
    assert '\n' not in str(raised.value)


def test_no_text_is_refused():
    for lines in ([], ['', ' ']):
        with pytest.raises(UserError, match='no text'):
            train_tokenizer(lines, TokenizerConfig())


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        *(('kind', 'bpee'), ('vocab_size', 4), ('character_coverage', 0.5), ('sample', 0)),
        ('source_vocab_size', 100),  # of a joint tokenizer
    ],
)
def test_bad_settings_name_their_field(field, value):
    with pytest.raises(UserError, match=f'tokenizer.{field}'):
        TokenizerConfig(**{field: value})
    with pytest.raises(UserError, match='byte_fallback'):
        TokenizerConfig(kind='word', byte_fallback=True)


def test_fingerprint_depends_on_text_and_settings_alone(tokenizer):
    again = train_tokenizer(iter(LINES), TokenizerConfig(vocab_size=200))
    assert again.fingerprint == tokenizer.fingerprint
    others = [
        train_tokenizer(LINES, TokenizerConfig(vocab_size=201)),
        train_tokenizer(LINES, TokenizerConfig(vocab_size=200, lowercase=True)),
        train_tokenizer(LINES[:-500], TokenizerConfig(vocab_size=200)),
    ]
    assert len({o.fingerprint for o in [*others, tokenizer]}) == 4


def test_save_and_pickle_keep_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / 'tokenizer.model')
    for other in (
        Tokenizer.load(tmp_path / 'tokenizer.model'),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert other.fingerprint == tokenizer.fingerprint
        assert other.config == tokenizer.config
        np.testing.assert_array_equal(other.encode(LINES[7]), tokenizer.encode(LINES[7]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['tokenizer.model', 'tokenizer.model.json']


def test_a_model_that_is_not_ours_is_refused(tokenizer, tmp_path):
    path = tmp_path / 'tokenizer.model'
    with pytest.raises(UserError, match='cannot be read'):
        Tokenizer.load(path)
    tokenizer.save(path)
    train_tokenizer(LINES, TokenizerConfig(vocab_size=150)).save(tmp_path / 'other.model')
    (tmp_path / 'other.model').replace(path)
    with pytest.raises(UserError, match='do not belong together'):
        Tokenizer.load(path)
    path.write_bytes(b'not a model')
    with pytest.raises(UserError, match='not a SentencePiece model'):
        Tokenizer.load(path)
    path.write_bytes(b'')
    with pytest.raises(UserError, match=r'is empty; give the \.model file of a seqzoo run'):
        Tokenizer.load(path)


def test_the_cache_is_used_and_told_apart_by_text_and_settings(tmp_path, monkeypatch):
    trained = []
    train = tokenizers.train_sentencepiece
    monkeypatch.setattr(
        tokenizers, 'train_sentencepiece', lambda *a: trained.append(1) or train(*a)
    )
    config = TokenizerConfig(vocab_size=100)
    first = train_tokenizer(LINES, config, cache_dir=tmp_path / 'cache')
    second = train_tokenizer(iter(LINES), config, cache_dir=tmp_path / 'cache')
    assert len(trained) == 1
    assert first.fingerprint == second.fingerprint
    train_tokenizer(LINES[1:], config, cache_dir=tmp_path / 'cache')
    train_tokenizer(LINES, TokenizerConfig(vocab_size=101), cache_dir=tmp_path / 'cache')
    assert len(trained) == 3


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('.model', b''),
        ('.model', b'not a model'),
        ('.model.json', b''),
        ('.model.json', b'[]'),
        ('.model.json', b'{}'),
        ('.model.json', None),
    ],
)
def test_a_damaged_cache_is_trained_anew_and_says_so(tmp_path, caplog, name, content):
    config = TokenizerConfig(vocab_size=100)
    first = train_tokenizer(LINES, config, cache_dir=tmp_path)
    [file] = [path for path in tmp_path.iterdir() if path.name.endswith(name)]
    whole = file.read_bytes()
    if content is None:
        note = json.loads(whole)
        del note['fingerprint']
        content = json.dumps(note).encode()
    file.write_bytes(content)
    again = train_tokenizer(LINES, config, cache_dir=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert file.read_bytes() == whole
    [record] = caplog.records
    assert 'the cache is damaged' in record.getMessage()
    assert file.name.removesuffix('.json') in record.getMessage()
    train_tokenizer(LINES, config, cache_dir=tmp_path)
    assert len(caplog.records) == 1


def test_a_sample_is_even_deterministic_and_of_the_stated_size():
    sides = [([f'a{i}' for i in range(3000)], 'en'), ((f'b{i}' for i in range(1000)), 'de')]
    drawn, total = tokenizers.sample_lines(sides, 400)
    assert total == 4000
    again, _ = tokenizers.sample_lines(
        [(sides[0][0], 'en'), ([f'b{i}' for i in range(1000)], 'de')], 400
    )
    assert drawn == again
    sizes = [len(lines) for lines, _ in drawn]
    assert sum(sizes) == 400
    assert 60 < sizes[1] < 140
    assert tokenizers.sample_lines([(['x', 'y'], 'en')], 5) == ([(['x', 'y'], 'en')], 2)


def test_a_pair_is_joint_or_separate(tmp_path):
    source, target = LINES[:1500], LINES[-1500:]
    joint = train_tokenizer_pair(source, target, TokenizerConfig(vocab_size=150))
    assert joint.source is joint.target
    assert joint.target.unk_id not in joint.target.encode('fünf')
    apart = train_tokenizer_pair(source, target, TokenizerConfig(vocab_size=100, joint=False))
    assert apart.source.fingerprint != apart.target.fingerprint
    assert apart.source.unk_id in apart.source.encode('fünf')
    assert apart.source.vocab_size == apart.target.vocab_size == 100
    config = TokenizerConfig(vocab_size=100, source_vocab_size=80, joint=False)
    sizes = train_tokenizer_pair(source, target, config)
    assert (sizes.source.vocab_size, sizes.target.vocab_size) == (80, 100)
    assert sizes.target.fingerprint == apart.target.fingerprint


def test_moses_is_undone_by_decode():
    pytest.importorskip('sacremoses')
    lines = ["He's here, isn't he?", 'Das ist z. B. „gut“ (sehr).', "L'eau, c'est bon."]
    config = TokenizerConfig(kind='char', vocab_size=100, moses=True)
    own = train_tokenizer(lines, config)
    ids = own.encode(lines[0])
    assert own.decode(ids) == lines[0]
    assert own.decode(ids, detokenize=False) == "He 's here , isn 't he ?"
    pair = train_tokenizer_pair(lines, lines, config, source_language='en', target_language='fr')
    assert (
        pair.target.decode(pair.target.encode(lines[2]), detokenize=False)
        == "L' eau , c' est bon ."
    )
    assert pair.source.fingerprint != pair.target.fingerprint
    assert pickle.loads(pickle.dumps(pair.target)).language == 'fr'


def test_importing_the_room_is_light():
    code = (
        'import sys; import seqzoo.data.pipeline, seqzoo.data.inspection, seqzoo.data.numerals; '
        "heavy = ('grain', 'sentencepiece', 'sacremoses', 'num2words', 'tensorflow', 'jax'); "
        'print([name for name in heavy if name in sys.modules])'
    )
    printed = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == '[]'
