"""What a run keeps of its tokenizer: one, whatever was kept in its folder before."""

import itertools

import pytest

from seqzoo.data.encoding import (
    load_text_tokenizer,
    load_tokenizers,
    make_text_tokenizer,
    save_text_tokenizer,
    save_tokenizers,
)
from seqzoo.data.marian_tokenizer import MarianVocabulary
from seqzoo.data.subwords import ByteLevelBPE
from seqzoo.data.tokenizers import TokenizerConfig, TokenizerPair, train_tokenizer
from seqzoo.data.vocabularies import Words
from seqzoo.data.wordpiece import WordPieceConfig

LINES = ['to be or not to be', 'that is the question'] * 3
SIDES = [
    train_tokenizer(lines, TokenizerConfig(kind='bpe', vocab_size=24))
    for lines in (LINES, [line[::-1] for line in LINES])
]
PIECES = SIDES[0]._processor
MARIAN = MarianVocabulary(
    source_model=PIECES.serialized_model_proto(),
    target_model=PIECES.serialized_model_proto(),
    source_ids=(ids := {PIECES.id_to_piece(i): i for i in range(PIECES.vocab_size())}),
    target_ids=ids,
    unknown='<unk>',
    end='</s>',
    padding='<pad>',
    begin_id=0,
    vocab_size=PIECES.vocab_size(),
    source_vocab_size=PIECES.vocab_size(),
)
PAIRS = {
    'joint': TokenizerPair(SIDES[0], SIDES[0]),
    'separate': TokenizerPair(*SIDES),
    'marian': MARIAN.pair(),
}
TEXT = {
    'pieces': TokenizerConfig(kind='bpe', vocab_size=24),
    'words': Words(),
    'wordpiece': WordPieceConfig(vocab_size=40),
    'bytes': ByteLevelBPE(vocab_size=300),
}


@pytest.mark.parametrize(('before', 'now'), itertools.permutations(PAIRS, 2))
def test_the_tokenizers_of_both_sides_are_those_written_last(before, now, tmp_path):
    save_tokenizers(PAIRS[before], tmp_path)
    save_tokenizers(PAIRS[now], tmp_path)
    assert load_tokenizers(tmp_path).fingerprint == PAIRS[now].fingerprint
    save_tokenizers(PAIRS[now], tmp_path)  # as every start does
    assert load_tokenizers(tmp_path).fingerprint == PAIRS[now].fingerprint


@pytest.mark.parametrize(('before', 'now'), itertools.permutations(TEXT, 2))
def test_the_tokenizer_of_a_text_is_the_one_written_last(before, now, tmp_path):
    made = {name: make_text_tokenizer(LINES, TEXT[name], tmp_path) for name in (before, now)}
    run = tmp_path / 'run'
    run.mkdir()
    for tokenizer in made.values():
        save_text_tokenizer(tokenizer, run)
    assert load_text_tokenizer(run).fingerprint == made[now].fingerprint
