"""`seqzoo score`."""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.commands.command import Command, add_json, at_least, table
from seqzoo.commands.lines import read_lines
from seqzoo.commands.published_figure import (
    PublishedFigure,
    published_figure,
    target_language,
)
from seqzoo.commands.reporting import say
from seqzoo.configuration import load_config
from seqzoo.errors import UserError

DESCRIPTION = """\
Reads two text files with the same number of lines, hypothesis i against reference i; writes
nothing. Shows every BLEU that people quote side by side with its signature and who quotes it:
numbers are comparable only where the signatures agree. Give detokenised text; the two `tokenized`
rows take words as the spaces separate them, and mean something only for files tokenised alike.

    bleu                        sacreBLEU, cased: the one to report
    bleu_lowercase, bleu_intl   the same with -lc, with -tok intl
    bleu_tokenized(_lowercase)  multi-bleu of the files as they are; _lowercase is its -lc, A to Z
    bleu_moses(_lowercase)      multi-bleu after Moses' tokenizer; _lowercase in every alphabet
    bleu_compound_split         the same, hyphens set off as ##AT##-##AT##
    bleu_compound_split_quotes  the same against a reference with altered quotation marks, which is
                                how "Attention Is All You Need" scores English-German
    chrf, ter (less is better), exact_match

The four rows after Moses' tokenizer are left out where it has no rules for the language.

METEOR is not here: its versions give 56 and 68 for one and the same kind of output.

With --system2 both outputs are scored and compared by paired bootstrap, which is slow for TER:
choose with --only. P is sacreBLEU's, about half of what a two-sided test gives, or less.

With --compare the scores of an earlier call (its --json output) stand beside these, of the same
references and signatures only. With --published the paper's figure of a configuration stands beside
the one score that it may be compared with, if the references are of its language and as many as its
test set has; beside tokenised BLEU that is bleu_tokenized of tokenised files, bleu_moses of others.

examples:
  seqzoo predict runs/demo --input test.en --output test.hyp
  seqzoo score test.hyp test.de
  seqzoo score new.hyp test.de --system2 old.hyp --only bleu,chrf
  seqzoo score test.hyp newstest2014.de --published transformer_base_wmt14_ende
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `score`."""
    parser.add_argument('hypotheses', type=Path, metavar='HYPOTHESES', help='one output per line')
    parser.add_argument(
        'references', type=Path, metavar='REFERENCES', help='the right answer per line'
    )
    parser.add_argument(
        '--system2',
        '--baseline',
        type=Path,
        metavar='HYPOTHESES',
        help='the outputs of another system, to be compared by paired bootstrap',
    )
    parser.add_argument(
        '--samples', type=at_least(1), default=1000, help='of the bootstrap (default: 1000)'
    )
    parser.add_argument('--only', metavar='NAMES', help='these scores, separated by commas')
    parser.add_argument(
        '--language',
        metavar='L',
        help="one that Moses' tokenizer has rules for, which it goes by (default: the ending of "
        'REFERENCES, else de)',
    )
    parser.add_argument(
        '--compare', type=Path, metavar='FILE', help='what an earlier call printed with --json'
    )
    parser.add_argument(
        '--published', metavar='CONFIG', help='the configuration whose paper to compare with'
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table of scores."""
    references = read_lines(arguments.references)
    systems = [
        _outputs(path, arguments.references, len(references))
        for path in (arguments.hypotheses, arguments.system2)
        if path is not None
    ]
    if not references:
        raise UserError(f'{arguments.references} is empty; there is nothing to score')
    if arguments.system2 is not None and (arguments.compare or arguments.published):
        raise UserError('--system2 stands alone; leave --compare and --published out')
    experiment = None if arguments.published is None else load_config(arguments.published)
    otherwise = None if experiment is None else target_language(experiment)
    language = _language(arguments.language, arguments.references, otherwise or 'de')
    names = _chosen(arguments.only, language)
    _say_whose_rules(arguments, language, names)
    digest = hashlib.sha256('\n'.join(references).encode()).hexdigest()
    earlier = {} if arguments.compare is None else _earlier(arguments.compare, digest)
    if len(systems) == 2:
        return _print_comparison(arguments, names, language, systems, references)
    files, texts = (arguments.hypotheses, arguments.references), (systems[0], references)
    published = None
    if experiment is not None:
        published = published_figure(
            str(arguments.published), experiment, files, texts, language, names
        )
    for path, lines in zip(files, texts, strict=True):
        _say_if_tokenized(path, lines)
    scores = _scores(names, language, systems[0], references)
    found = {s.name: _plain(s) for s in scores}
    beside = _beside(found, earlier, str(arguments.compare)) if earlier else {}
    if arguments.json:
        result: dict[str, Any] = {
            'lines': len(references),
            'references_sha256': digest,
            'language': language,
            'scores': found,
        }
        if earlier:
            result['compared'] = beside
        if published is not None:
            result['published'] = vars(published)
        print(json.dumps(result, ensure_ascii=False))
    else:
        _print_scores(scores, beside, published)
    return 0


def _print_scores(
    scores: Sequence[Any],
    beside: dict[str, dict[str, float]],
    published: PublishedFigure | None,
) -> None:
    header = ('SCORE', ' VALUE', *(('BEFORE', 'DIFFERENCE') if beside else ()), 'SIGNATURE', 'AS')
    rows: list[Sequence[Any]] = [header]
    for score in scores:
        before = beside.get(score.name)
        columns = ()
        if beside:
            columns = ('', '') if before is None else (_two(before['before']), _signed(before))
        rows.append((score.name, _two(score.value), *columns, score.signature, score.quoted_by))
    print(table(rows))
    if published is not None:
        (value,) = (_two(s.value).strip() for s in scores if s.name == published.score)
        print(
            f'\n{published.paper}: {published.result} ({published.source}). Of the scores above it '
            f'may be compared with {published.score} alone: {value}.',
            *published.notes,
        )


def _outputs(path: Path, references: Path, wanted: int) -> list[str]:
    lines = read_lines(path)
    if len(lines) != wanted:
        raise UserError(
            f'{path} has {len(lines):,} lines but {references} has {wanted:,}; line i of one is '
            'scored against line i of the other'
        )
    return lines


def _say_if_tokenized(path: Path, lines: Sequence[str]) -> None:
    """A warning where the text is not what a reader would see, which all but two rows expect."""
    from seqzoo.scoring import signs_of_tokens

    if found := signs_of_tokens(lines):
        say(
            f'{path} looks tokenised ({found}); only the rows bleu_tokenized and '
            'bleu_tokenized_lowercase mean something for such text'
        )


def _language_of(path: Path) -> str | None:
    """The language that the ending of a file's name says, if it says one."""
    from seqzoo.scoring import moses_languages

    ending = path.name.removesuffix('.gz').rpartition('.')[2].lower()
    is_code = len(ending) == 2 and ending.isascii() and ending.isalpha()
    return ending if is_code or ending in moses_languages() else None


def _language(asked: str | None, references: Path, otherwise: str) -> str:
    from seqzoo.scoring import check_moses_language

    if asked is not None:
        check_moses_language(asked)
        return asked
    return _language_of(references) or otherwise


def _say_whose_rules(arguments: argparse.Namespace, language: str, names: Sequence[str]) -> None:
    """Says what nobody asked for: rules by default, or rows that are left out."""
    from seqzoo.scoring import moses_languages

    path = arguments.references
    if language not in moses_languages() and arguments.only is None:
        say(
            f"Moses' tokenizer has no rules for the language {language!r}, the ending of {path}; "
            'the scores that go by them are left out, unless --language names one that it has'
        )
    assumed = arguments.language is None and _language_of(path) is None
    if assumed and any('moses' in name or 'compound' in name for name in names):
        say(
            f"the ending of {path} names no language; Moses' tokenizer goes by the rules for "
            f'{language!r} unless --language names another'
        )


def _names(language: str) -> list[str]:
    from seqzoo.scoring import scorers

    return [*(scorer.name for scorer in scorers(language)), 'exact_match']


def _chosen(only: str | None, language: str) -> list[str]:
    from seqzoo.scoring import check_moses_language

    known = _names(language)
    chosen = known if only is None else [name.strip() for name in only.split(',') if name.strip()]
    if not chosen:
        raise UserError(f'--only {only!r} names no score; choose from {", ".join(known)}')
    for name in chosen:
        if name not in known:
            if name in _names('de'):  # only the language is in the way
                check_moses_language(language)
            raise UserError(f'there is no score {name!r}; choose from {", ".join(known)}')
    return chosen


def _scores(names: Sequence[str], language: str, outputs: list[str], references: list[str]) -> list:
    from seqzoo.scoring import exact_match, scorers

    found = [s(outputs, references) for s in scorers(language) if s.name in names]
    return [*found, *([exact_match(outputs, references)] if 'exact_match' in names else [])]


def _plain(score: Any) -> dict[str, Any]:
    return {
        'value': score.value,
        'signature': score.signature,
        'quoted_by': score.quoted_by,
        'better': score.better,
    }


def _earlier(path: Path, digest: str) -> dict[str, Any]:
    """The scores of an earlier call, of the same references."""
    try:
        found = json.loads('\n'.join(read_lines(path)))
        scores = {
            name: {'value': float(score['value']), 'signature': score['signature']}
            for name, score in found['scores'].items()
        }
        references = found['references_sha256']
        if not all(math.isfinite(score['value']) for score in scores.values()):
            raise ValueError('a score that is no number')  # which JSON spells NaN or Infinity
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(
            f'{path} is not what `seqzoo score --json` prints; score the other output again'
        ) from error
    if not scores:
        raise UserError(f'{path} holds no scores; score the other output again')
    if references != digest:
        raise UserError(
            f'the scores in {path} are of other references, so that no difference means anything; '
            'score both outputs against the same file'
        )
    return scores


def _beside(
    found: dict[str, Any], earlier: dict[str, Any], path: str
) -> dict[str, dict[str, float]]:
    """Differences of those scores that were made alike."""
    alike = {
        name: {
            'before': earlier[name]['value'],
            'difference': score['value'] - earlier[name]['value'],
        }
        for name, score in found.items()
        if name in earlier and earlier[name]['signature'] == score['signature']
    }
    if not alike:
        raise UserError(
            f'no score in {path} has the signature of one here (another scorer, version, tokenizer '
            'or case); score both outputs in the same way'
        )
    return alike


def _print_comparison(
    arguments: argparse.Namespace,
    names: Sequence[str],
    language: str,
    systems: Sequence[list[str]],
    references: list[str],
) -> int:
    from seqzoo.scoring import paired_bootstrap, scorers

    if arguments.only is not None and 'exact_match' in names:
        raise UserError('exact_match has no bootstrap here; choose other scores with --only')
    system, baseline = systems
    found = [
        paired_bootstrap(scorer, system, baseline, references, samples=arguments.samples)
        for scorer in scorers(language)
        if scorer.name in names
    ]
    if arguments.json:
        plain = {f.name: {**vars(f), 'difference': f.difference} for f in found}
        result = {'lines': len(references), 'language': language, 'compared': plain}
        print(json.dumps(result, ensure_ascii=False))
        return 0
    header = ('SCORE', 'SYSTEM'.rjust(14), 'SYSTEM2'.rjust(14), 'DIFFERENCE', 'P', 'SIGNATURE')
    rows = [
        (
            one.name,
            f'{one.system:6.2f} ± {one.system_interval:5.2f}',
            f'{one.baseline:6.2f} ± {one.baseline_interval:5.2f}',
            f'{one.difference:+10.2f}',
            f'{one.p_value:.4f}',
            one.signature,
        )
        for one in found
    ]
    print(table([header, *rows]))
    return 0


def _two(value: float) -> str:
    return f'{value:6.2f}'


def _signed(before: dict[str, float]) -> str:
    return f'{before["difference"]:+10.2f}'


COMMAND = Command(
    'score',
    'compare two text files by every BLEU that people quote',
    DESCRIPTION,
    add_arguments,
    run,
)
