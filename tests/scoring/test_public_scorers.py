"""Every dialect on real newstest text against the public scorers and against multi-bleu and its
preparation written out here; and comparisons, which take only like with like.
"""

import json
import math
import pathlib
import random
import re
from collections import Counter

import pytest
import sacrebleu
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from seqzoo.__main__ import main
from seqzoo.errors import UserError
from seqzoo.scoring import (
    compound_split_bleu,
    difference,
    paired_bootstrap,
    score_table,
    scorers,
)
from seqzoo.scoring.score import Score
from seqzoo.scoring.scorer import moses_tokenize

LINES = 400


def garbled(references, share, seed):
    """What a system might have written: words missing, wrong, or in another place."""
    draw = random.Random(seed)
    words = [word for line in references for word in line.split()]
    outputs = []
    for line in references:
        kept = [
            draw.choice(words) if draw.random() < share else word
            for word in line.split()
            if draw.random() > share / 3
        ]
        for i in range(len(kept) - 1):
            if draw.random() < share / 2:
                kept[i], kept[i + 1] = kept[i + 1], kept[i]
        outputs.append(' '.join(kept))
    return outputs


@pytest.fixture(scope='module')
def newstest(data_dir):
    """References, two outputs."""
    import gzip

    with gzip.open(data_dir / 'wmt' / 'newstest2013.de.gz', 'rt', encoding='utf-8') as file:
        references = [line.rstrip('\n') for line in file][600 : 600 + LINES]
    assert len(references) == LINES
    # newstest2014 has the quotation marks of print, which scripts treat in their own way.
    references = [re.sub(r'"([^"]*)"', r'„\1“', line) for line in references]
    assert sum('„' in line for line in references) > 20
    return references, garbled(references, 0.2, 0), garbled(references, 0.24, 1)


def multi_bleu(hypotheses, references, lowercase=False):
    """What the script multi-bleu prints: words between the blanks of a line of bytes, no smoothing;
    with `-lc` the bytes that are capitals of ASCII lower-cased.
    """
    matches, totals, lengths = [0] * 4, [0] * 4, [0, 0]
    for pair in zip(hypotheses, references, strict=True):
        words = [(s.encode().lower() if lowercase else s.encode()).split() for s in pair]
        for side in (0, 1):
            lengths[side] += len(words[side])
        for n in range(1, 5):
            mine, theirs = (
                Counter(zip(*(side[i:] for i in range(n)), strict=False)) for side in words
            )
            matches[n - 1] += sum((mine & theirs).values())
            totals[n - 1] += sum(mine.values())
    penalty = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    product = math.prod(m / t for m, t in zip(matches, totals, strict=True))
    return 100 * penalty * product**0.25


def with_compounds_apart(line):
    """Hyphens between bytes set off, the way a Perl substitution goes along a line."""
    line, out, i = line.encode(), b'', 0
    while i < len(line):
        before, hyphen, after = (line[j : j + 1] for j in range(i, i + 3))
        if hyphen == b'-' and before.strip() and after.strip():
            out += before + b' ##AT##-##AT## ' + after
            i += 3
        else:
            out += line[i : i + 1]
            i += 1
    return out.decode()


def test_every_dialect_agrees_with_the_public_scorer_to_the_second_decimal(newstest):
    references, hypotheses, _ = newstest
    found = {score.name: score for score in score_table(hypotheses, references)}
    moses = MosesTokenizer('de')
    unicode_quotes = str.maketrans(dict.fromkeys('„“”‟«»', '"'))

    def tokenized(lines):  # as the script does: with entities for special characters
        return [moses.tokenize(line, return_str=True) for line in lines]

    normalized = [MosesPunctNormalizer().replace_unicode_punct(line) for line in hypotheses]
    theirs = [with_compounds_apart(line) for line in tokenized(normalized)]
    plain = [with_compounds_apart(line) for line in tokenized(references)]
    altered = [line.translate(unicode_quotes) for line in references]
    expected = {
        'bleu': sacrebleu.corpus_bleu(hypotheses, [references]).score,
        'bleu_lowercase': sacrebleu.corpus_bleu(hypotheses, [references], lowercase=True).score,
        'bleu_intl': sacrebleu.corpus_bleu(hypotheses, [references], tokenize='intl').score,
        'bleu_tokenized': multi_bleu(hypotheses, references),
        'bleu_tokenized_lowercase': multi_bleu(hypotheses, references, lowercase=True),
        'bleu_moses': multi_bleu(tokenized(hypotheses), tokenized(references)),
        'bleu_moses_lowercase': multi_bleu(
            *([line.lower() for line in tokenized(side)] for side in (hypotheses, references))
        ),
        'bleu_compound_split': multi_bleu(theirs, plain),
        'bleu_compound_split_quotes': multi_bleu(
            theirs, [with_compounds_apart(line) for line in tokenized(altered)]
        ),
        'chrf': sacrebleu.corpus_chrf(hypotheses, [references]).score,
        'ter': sacrebleu.corpus_ter(hypotheses, [references]).score,
        'exact_match': 100
        * sum(h == r for h, r in zip(hypotheses, references, strict=True))
        / LINES,
    }
    assert {name: round(score.value, 2) for name, score in found.items()} == {
        name: round(value, 2) for name, value in expected.items()
    }
    # They are different things: no two dialects of BLEU give one number here.
    bleus = [score.value for name, score in found.items() if name.startswith('bleu')]
    assert len(set(bleus)) == len(bleus)
    assert len({score.signature for score in found.values()}) == len(found)


BLANKS = [chr(code) for code in range(0x10000) if chr(code).isspace() and chr(code) != '\n']


def test_blanks_and_capitals_beyond_ascii_are_to_us_what_they_are_to_the_script(newstest):
    """A no-break space is part of a word, and `-lc` leaves an umlaut as it is."""
    draw = random.Random(2)

    def odd(line):
        return ''.join(draw.choice(BLANKS) if c == ' ' and draw.random() < 0.3 else c for c in line)

    references = [odd(line) for line in newstest[0]]
    hypotheses = [odd(s.upper() if draw.random() < 0.2 else s) for s in references]
    table = {s.name: s.value for s in score_table(hypotheses, references)}
    plain, lower = (multi_bleu(hypotheses, references, lowercase=on) for on in (False, True))
    assert table['bleu_tokenized'] == pytest.approx(plain, abs=1e-8)
    assert table['bleu_tokenized_lowercase'] == pytest.approx(lower, abs=1e-8)
    sides = ([with_compounds_apart(line) for line in side] for side in (hypotheses, references))
    compounds = compound_split_bleu(hypotheses, references, tokenize='none')
    assert compounds.value == pytest.approx(multi_bleu(*sides), abs=1e-8)
    # Python's own idea of a word and of a small letter would give other numbers.
    pythons = [[' '.join(line.split()) for line in side] for side in (hypotheses, references)]
    assert abs(multi_bleu(*pythons) - plain) > 0.1
    folded = ([line.lower() for line in side] for side in (hypotheses, references))
    assert abs(multi_bleu(*folded) - lower) > 0.1


def test_moses_leaves_no_blank_but_the_space():
    """So scores that go through its tokenizer part words where the script does."""
    for blank in BLANKS:
        assert moses_tokenize(f'a{blank}b ,{blank}c', 'de') == 'a b , c'


def test_two_systems_are_told_apart_as_sacrebleu_does(newstest):
    references, better, worse = newstest
    by_name = {scorer.name: scorer for scorer in scorers('de')}
    found = paired_bootstrap(by_name['bleu'], better, worse, references, samples=200)
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.significance import PairedTest

    _, theirs = PairedTest(
        [('worse', worse), ('better', better)], {'B': BLEU()}, [references], 'bs', 200
    )()
    baseline, system = theirs['BLEU']
    assert (found.system, found.baseline) == (system.score, baseline.score)
    assert (found.p_value, found.system_interval) == (system.p_value, system.ci)
    assert found.difference > 0
    assert found.p_value < 0.05
    assert 'bs:200|seed:12345' in found.signature
    same = paired_bootstrap(by_name['chrf'], better, better, references, samples=50)
    assert same.difference == 0
    assert same.p_value == 1.0
    # Text is prepared for the metric here too.
    split = paired_bootstrap(
        by_name['bleu_compound_split_quotes'], better, worse, references, samples=2
    )
    table = {score.name: score.value for score in score_table(better, references)}
    assert split.system == pytest.approx(table['bleu_compound_split_quotes'])
    assert 'tok:moses-de+compounds+quotes' in split.signature
    lower = paired_bootstrap(
        by_name['bleu_tokenized_lowercase'], better, worse, references, samples=2
    )
    assert lower.system == pytest.approx(table['bleu_tokenized_lowercase'])
    assert 'case:lc-ascii|eff:no|tok:ascii-blanks' in lower.signature


def test_scores_of_different_kinds_are_not_subtracted():
    mine = Score(30.0, 'case:mixed', 'bleu')
    assert difference(mine, Score(29.0, 'case:mixed', 'bleu')) == 1.0
    with pytest.raises(UserError, match='different scores'):
        difference(mine, Score(29.0, 'case:lc', 'bleu'))
    with pytest.raises(UserError, match='different scores'):
        difference(mine, Score(29.0, 'case:mixed', 'bleu_intl'))


@pytest.fixture
def files(newstest, tmp_path):
    paths = []
    for name, lines in zip(('ref.de', 'one.hyp', 'two.hyp'), newstest, strict=True):
        paths.append(tmp_path / name)
        paths[-1].write_text(''.join(f'{line}\n' for line in lines[:60]), 'utf-8')
    return [str(path) for path in paths]


def test_the_command_compares_only_what_was_made_alike(files, tmp_path, capsys):
    references, one, two = files
    earlier = tmp_path / 'earlier.json'
    assert main(['score', two, references, '--json', '--only', 'bleu,chrf']) == 0
    earlier.write_text(capsys.readouterr().out)
    before = json.loads(earlier.read_text())
    assert set(before['scores']) == {'bleu', 'chrf'}
    assert before['scores']['bleu']['quoted_by'] == 'papers since 2018'

    words = ['score', one, references, '--compare', str(earlier), '--json']
    assert main([*words, '--only', 'bleu,bleu_intl']) == 0
    after = json.loads(capsys.readouterr().out)
    assert set(after['compared']) == {'bleu'}
    value = after['scores']['bleu']['value'] - before['scores']['bleu']['value']
    assert after['compared']['bleu']['difference'] == value
    assert main([*words[:-1], '--only', 'bleu,bleu_intl']) == 0
    assert f'{value:+.2f}' in capsys.readouterr().out

    assert main([*words, '--only', 'bleu_intl']) == 2
    assert 'no score in' in capsys.readouterr().err
    other = tmp_path / 'other.de'
    other.write_text(''.join(f'{i}\n' for i in range(60)))
    assert main(['score', one, str(other), '--compare', str(earlier)]) == 2
    assert 'of other references' in capsys.readouterr().err
    assert main(['score', one, references, '--compare', references]) == 2
    assert 'not what `seqzoo score --json` prints' in capsys.readouterr().err
    for broken in ([1], {'bleu': 3}, {'bleu': {'signature': before['scores']['bleu']}}):
        earlier.write_text(json.dumps({**before, 'scores': broken}))
        assert main(words) == 2
        assert 'not what `seqzoo score --json` prints' in capsys.readouterr().err
    for value in (math.nan, math.inf, 'nan', 10**400):  # the last is beyond a float
        broken = {'bleu': {**before['scores']['bleu'], 'value': value}}
        earlier.write_text(json.dumps({**before, 'scores': broken}))
        assert main(words) == 2
        assert 'not what `seqzoo score --json` prints' in capsys.readouterr().err


def test_scores_that_cannot_be_given_are_refused(files, capsys):
    references, one, two = files
    assert main(['score', one, references, '--only', ' ,']) == 2
    assert 'names no score; choose from bleu' in capsys.readouterr().err
    words = ['score', one, references, '--system2', two, '--samples', '2']
    assert main([*words, '--only', 'bleu,exact_match']) == 2
    assert 'exact_match has no bootstrap' in capsys.readouterr().err


def test_the_language_of_the_rules_is_named_or_said(files, tmp_path, capsys):
    references, one, _ = files
    only = ['--only', 'bleu_moses', '--json']
    assert main(['score', one, references, *only, '--language', 'zzq']) == 2
    assert "no rules for the language 'zzq'; it has them for as, bn" in capsys.readouterr().err

    def written(name):
        (tmp_path / name).write_text(pathlib.Path(references).read_text('utf-8'), 'utf-8')
        return str(tmp_path / name)

    assert main(['score', one, written('ref.txt'), *only]) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)['language'] == 'de'
    assert "names no language; Moses' tokenizer goes by the rules for 'de'" in text.err
    assert main(['score', one, written('ref.txt'), '--only', 'bleu']) == 0
    assert 'names no language' not in capsys.readouterr().err
    assert main(['score', one, written('ref.FR'), *only]) == 0
    text = capsys.readouterr()
    assert (json.loads(text.out)['language'], text.err) == ('fr', '')
    assert main(['score', one, written('ref.ja'), *only]) == 2
    assert "no rules for the language 'ja'" in capsys.readouterr().err
    assert main(['score', one, written('ref.ja'), '--json']) == 0
    text = capsys.readouterr()
    assert not [name for name in json.loads(text.out)['scores'] if 'moses' in name]
    assert 'are left out' in text.err


def test_the_command_compares_two_systems(files, capsys):
    references, one, two = files
    words = ['score', one, references, '--system2', two, '--samples', '20', '--only', 'bleu,chrf']
    assert main([*words, '--json']) == 0
    found = json.loads(capsys.readouterr().out)['compared']
    assert set(found) == {'bleu', 'chrf'}
    assert found['bleu']['samples'] == 20
    assert main(words) == 0
    assert 'DIFFERENCE' in capsys.readouterr().out
    assert main([*words[:-1], 'exact_match']) == 2
    assert 'no bootstrap' in capsys.readouterr().err
    assert main(['score', one, references, '--only', 'blue']) == 2
    assert "no score 'blue'" in capsys.readouterr().err


def test_text_that_is_tokenised_is_noticed(files, tmp_path, capsys):
    references, one, _ = files
    moses = MosesTokenizer('de')
    path = tmp_path / 'tok.hyp'
    lines = pathlib.Path(one).read_text('utf-8').splitlines()
    path.write_text(''.join(f'{moses.tokenize(line, return_str=True)} @-@\n' for line in lines))
    assert main(['score', str(path), references, '--only', 'bleu']) == 0
    assert 'looks tokenised' in capsys.readouterr().err
    assert main(['score', one, references, '--only', 'bleu']) == 0
    assert 'looks tokenised' not in capsys.readouterr().err
