"""Tokenizer files of others beside transformers: the same ids for any text, new files or old."""

import json

import pytest

from seqzoo.errors import UserError
from seqzoo.interop.their_tokenizers import read_subwords, read_wordpiece, write_subwords

transformers = pytest.importorskip('transformers')
tokenizers = pytest.importorskip('tokenizers')

TEXT = ['to be or not to be, that is the question', "the slings and arrows; it's 42 Ünïcode"] * 4
TEXTS = [
    '',
    ' ',
    'to be',
    '  two  spaces and\ta tab ',
    'line\n\nbreaks\r\n',
    "IT'S the Question?!",
    'é e\u0301 ﬁ ½ … ｆｕｌｌ ß ǅ İ',
    '😀👩‍👩‍👧 🇩🇪 日本語 हिन्दी عربى \u200b\ufeff',
    '\x00\x7f\u2028',
    '<|endoftext|>to be<|endoftext|> <unk> </w> [MASK] [SEP]',
    'question' * 400,
]
CLASSES = {
    'gpt': transformers.OpenAIGPTTokenizer,
    'gpt2': transformers.GPT2Tokenizer,
    'gpt_neox': transformers.GPTNeoXTokenizer,
}


def write(folder, kind):
    if kind == 'gpt':
        learner = tokenizers.CharBPETokenizer(lowercase=True, suffix='</w>')
        learner.train_from_iterator(TEXT, vocab_size=70, special_tokens=['<unk>'])
    else:
        learner = tokenizers.ByteLevelBPETokenizer()
        learner.train_from_iterator(TEXT, vocab_size=290, special_tokens=['<|endoftext|>'])
    learner.save_model(str(folder))


def same(folder, kind, theirs):
    ours = read_subwords(folder, kind, vocab_size=1000, end_id=None)
    for text in TEXTS:
        ids = theirs(text)['input_ids']
        before = list(ours.prompt_start)
        assert [*before, *ours.encode(text).tolist()] == ids, text
        content = ids[len(before) :]
        assert ours.decode_text(content) == theirs.decode(content), text
    return ours


@pytest.mark.parametrize('kind', CLASSES)
def test_ids_are_theirs_from_old_files_new_files_and_our_own(tmp_path, kind):
    write(tmp_path, kind)
    theirs = CLASSES[kind].from_pretrained(tmp_path, pad_token=None)
    ours = same(tmp_path, kind, theirs)
    assert not (tmp_path / 'tokenizer.json').exists()
    new, own = tmp_path / 'new', tmp_path / 'own'
    theirs.save_pretrained(new)
    assert (new / 'tokenizer.json').exists()
    same(new, kind, theirs)
    own.mkdir()
    write_subwords(ours, own)
    back = transformers.AutoTokenizer.from_pretrained(own)
    assert type(back) is type(theirs)
    same(own, kind, back)


def test_a_space_or_a_token_before_texts_is_read_as_they_do(tmp_path):
    for name, settings in (
        ('space', {'add_prefix_space': True}),
        ('begin', {'add_bos_token': True}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, 'gpt2')
        theirs = transformers.GPT2Tokenizer.from_pretrained(folder, **settings)
        theirs.save_pretrained(folder)
        ours = same(folder, 'gpt2', theirs)
        own = tmp_path / f'own {name}'
        own.mkdir()
        write_subwords(ours, own)
        same(own, 'gpt2', transformers.AutoTokenizer.from_pretrained(own))


def test_a_token_behind_texts_is_refused(tmp_path):
    write(tmp_path, 'gpt2')
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'add_eos_token': True}))
    with pytest.raises(UserError, match='add_eos_token'):
        read_subwords(tmp_path, 'gpt2', vocab_size=1000, end_id=None)


@pytest.mark.parametrize('lowercase', [True, False])
def test_word_pieces_are_theirs(tmp_path, lowercase):
    pieces = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'to', 'be', 'e', 'é', 'ü', 'T', 't']
    pieces += ['question', '##s', '##o', '日', '?', "'", 'it', 'I', '##T', '½', '[', ']', '<', '|']
    (tmp_path / 'vocab.txt').write_text('\n'.join(pieces) + '\n', encoding='utf-8')
    settings = {'do_lower_case': lowercase, 'tokenizer_class': 'BertTokenizer'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    new = tmp_path / 'new'
    theirs.save_pretrained(new)
    for folder in (tmp_path, new):
        ours = read_wordpiece(folder, vocab_size=40)
        assert ours.vocab_size == 40
        for text in TEXTS:
            expected = theirs(text, add_special_tokens=False)['input_ids']
            assert ours.encode(text).tolist() == expected, text
    content = json.loads((new / 'tokenizer.json').read_text())
    content['normalizer']['strip_accents'] = not lowercase
    (new / 'tokenizer.json').write_text(json.dumps(content))
    with pytest.raises(UserError, match='strip_accents'):
        read_wordpiece(new, vocab_size=40)
