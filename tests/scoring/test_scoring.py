"""Scores against counts made by hand and by a second, small implementation of BLEU."""

import json
import math
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.errors import UserError
from seqzoo.scoring import (
    bleu,
    chrf,
    compound_split_bleu,
    exact_match,
    score_table,
    ter,
    tokenized_bleu,
)
from seqzoo.scoring.bleu import compound_split_scorer, moses_scorer
from seqzoo.scoring.scorer import split_compounds
from seqzoo.tasks.translation import Translation

SCORERS = [bleu, tokenized_bleu, compound_split_bleu, chrf, ter, exact_match, score_table]


def own_bleu(hypotheses, references, smooth):
    """Papineni et al. 2002; `smooth`: 1/2, 1/4, ... matches for the orders that have none."""
    matches, totals = [0] * 4, [0] * 4
    hypothesis_length = reference_length = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        h, r = hypothesis.split(), reference.split()
        hypothesis_length += len(h)
        reference_length += len(r)
        for n in range(1, 5):
            grams = [Counter(tuple(s[i : i + n]) for i in range(len(s) - n + 1)) for s in (h, r)]
            matches[n - 1] += sum((grams[0] & grams[1]).values())
            totals[n - 1] += sum(grams[0].values())
    if not hypothesis_length or not all(totals):
        return None
    logs, smoothing = 0.0, 1.0
    for m, t in zip(matches, totals, strict=True):
        if not m:
            if not smooth or not any(matches):
                return 0.0
            smoothing *= 2
        logs += math.log(m / t if m else 1 / (smoothing * t)) / 4
    brevity = min(0.0, 1 - reference_length / hypothesis_length)
    return 100 * math.exp(logs + brevity)


LINES = st.lists(
    st.tuples(*[st.lists(st.sampled_from('abcD'), min_size=4, max_size=9).map(' '.join)] * 2),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(pairs=LINES)
def test_bleu_equals_a_second_implementation(pairs):
    hypotheses, references = zip(*pairs, strict=True)
    for lowercase in (False, True):
        h, r = ([s.lower() if lowercase else s for s in side] for side in (hypotheses, references))
        found = tokenized_bleu(hypotheses, references, lowercase=lowercase)
        assert found.value == pytest.approx(own_bleu(h, r, smooth=False), abs=1e-8)
        found = bleu(hypotheses, references, lowercase=lowercase)
        assert found.value == pytest.approx(own_bleu(h, r, smooth=True), abs=1e-8)


def test_bleu_counted_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; as long as the reference.
    score = tokenized_bleu(['the cat sat on the mat'], ['the cat sat on a mat'])
    precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    assert score.value == pytest.approx(100 * math.prod(precisions) ** 0.25)
    assert score.details['precisions'] == pytest.approx([100 * p for p in precisions])
    # All of 5 words match, the reference has 6: brevity penalty exp(1 - 6/5).
    score = tokenized_bleu(['the cat sat on a'], ['the cat sat on a mat'])
    assert score.value == pytest.approx(100 * math.exp(1 - 6 / 5))
    assert score.details['hypothesis_length'] == 5
    assert score.details['reference_length'] == 6


def test_signatures_name_what_changes_the_number():
    h, r = ['Ein Hund läuft über die Wiese.'], ['ein Hund rennt über die Wiese.']
    assert 'case:mixed|eff:no|tok:13a|smooth:exp|version:' in bleu(h, r).signature
    assert 'case:lc|eff:no|tok:intl' in bleu(h, r, lowercase=True, tokenize='intl').signature
    assert 'case:lc-ascii|eff:no|tok:ascii-blanks|smooth:none' in tokenized_bleu(h, r).signature
    assert 'tok:moses-de+compounds|smooth:none' in compound_split_bleu(h, r).signature
    altered = compound_split_bleu(h, r, tokenize='13a', alter_reference_quotes=True)
    assert 'tok:13a+compounds+quotes|' in altered.signature
    assert 'chrF2' in chrf(h, r).name or 'nc:6|nw:0' in chrf(h, r).signature
    assert bleu(h, r).name == 'bleu'
    assert bleu(h, r, lowercase=True, tokenize='intl').name == 'bleu_intl_lowercase'


def test_case_and_punctuation_matter_where_they_should():
    h, r = ['ein Hund läuft über die Wiese .'], ['Ein Hund läuft über die Wiese.']
    assert bleu(h, r).value < 100
    assert bleu(h, r, lowercase=True).value == pytest.approx(100)
    assert tokenized_bleu(h, r).value < 100


def test_translations_are_judged_lower_cased_in_every_alphabet():
    """As Moses' script lower-cases the text of the papers, and multi-bleu's -lc does not."""
    task = Translation(tokenizer=TokenizerConfig(kind='bpe', moses=True))
    sides = ['Öl ist für ALLE da .'], ['öl ist FÜR alle da .']
    found = task.score(*sides, tokenizer=SimpleNamespace(preprocess=str))
    assert found['bleu_tokenized_lowercase'] == pytest.approx(100)
    assert tokenized_bleu(*sides).value < 100


def test_compounds_are_split_at_their_hyphens():
    assert split_compounds('eine rich-text Datei - neu -alt') == (
        'eine rich ##AT##-##AT## text Datei - neu -alt'
    )
    # The script sees bytes: of the ü it takes one with each hyphen.
    assert split_compounds('T-ü-V T-u-V') == (
        'T ##AT##-##AT## ü ##AT##-##AT## V T ##AT##-##AT## u-V'
    )
    score = compound_split_bleu(['A rich-text file here'], ['A rich-text file here'])
    assert score.value == pytest.approx(100)
    assert score.details['reference_length'] == 6


def test_chrf_counted_by_hand():
    # Letters 3 of 4 and 3 of 3, pairs 2 of 3 and 2 of 2, triples 1 of 2 and 1 of 1; 'abc' has no
    # longer n-grams.
    precision, recall = (3 / 4 + 2 / 3 + 1 / 2) / 3, 1.0
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf(['abcd'], ['abc']).value == pytest.approx(expected)
    assert chrf(['abc'], ['abc']).value == pytest.approx(100)


def test_exact_match_counts_lines():
    score = exact_match(['eins', 'zwei ', 'Drei', ''], ['eins', 'zwei', 'drei', ''])
    assert score.value == 75.0
    assert score.details == {'matches': 3, 'lines': 4}


def test_empty_hypotheses_are_scored():
    assert bleu(['', ''], ['a b c d', 'e']).value == 0
    assert exact_match(['', ''], ['a b c d', 'e']).value == 0


def test_table_has_every_dialect_once_and_is_plain_data():
    table = score_table(
        ['Ein Hund läuft.', 'Zwei rich-text Katzen.'] * 3, ['Ein Hund läuft.', 'Drei Katzen.'] * 3
    )
    assert [score.name for score in table] == [
        'bleu',
        'bleu_lowercase',
        'bleu_intl',
        'bleu_tokenized',
        'bleu_tokenized_lowercase',
        'bleu_moses',
        'bleu_moses_lowercase',
        'bleu_compound_split',
        'bleu_compound_split_quotes',
        'chrf',
        'ter',
        'exact_match',
    ]
    assert all(0 <= score.value <= 100 for score in table)
    assert all(score.quoted_by for score in table)
    assert [score.name for score in table if score.better == 'lower'] == ['ter']
    again = json.loads(json.dumps([score.as_dict() for score in table]))
    assert again[0]['value'] == table[0].value
    assert table[0].signature in str(table[0])


def test_a_language_without_rules_is_never_scored_by_others():
    assert all('moses' not in score.signature for score in score_table(['a b'], ['a b'], 'ja'))
    for make in (moses_scorer, lambda language: compound_split_scorer(language=language)):
        with pytest.raises(UserError, match=r"no rules for the language 'ja'; it has them for as,"):
            make('ja')


def test_scores_by_moses_rules_name_the_version_of_the_rules():
    by_rules = {s.name for s in score_table(['a b'], ['a b'], 'fr') if 'sacremoses' in s.signature}
    assert by_rules == {
        'bleu_moses',
        'bleu_moses_lowercase',
        'bleu_compound_split',
        'bleu_compound_split_quotes',
    }
    signature = moses_scorer('fr', lowercase=True)(['a b'], ['a b']).signature
    assert signature.startswith('nrefs:1|case:lc|eff:no|tok:moses-fr|smooth:none|version:')
    assert signature.endswith(f'|sacremoses:{version("sacremoses")}')


@pytest.mark.parametrize('scorer', SCORERS)
def test_unequal_numbers_of_lines_are_refused_with_both_counts(scorer):
    with pytest.raises(UserError, match=r'2 hypotheses but 3 references'):
        scorer(['a', 'b'], ['a', 'b', 'c'])


@pytest.mark.parametrize('scorer', SCORERS)
def test_an_empty_corpus_is_refused(scorer):
    with pytest.raises(UserError, match='nothing to score'):
        scorer([], [])


@pytest.mark.parametrize('scorer', SCORERS)
def test_a_bare_string_is_not_a_corpus(scorer):
    with pytest.raises(TypeError, match='list of lines'):
        scorer('abc', 'abc')


def test_importing_the_scorers_does_not_import_sacrebleu():
    code = 'import sys, seqzoo.scoring; sys.exit("sacrebleu" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
