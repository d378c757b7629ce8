"""What a paper prints stands beside the one score that it may be compared with, or beside none."""

import gzip
import json
import pathlib
import re

import pytest
from sacremoses import MosesTokenizer

from seqzoo.__main__ import main
from seqzoo.commands.published_figure import check_lines, target_language
from seqzoo.configuration import config_names, find_config, load_config, variants
from seqzoo.errors import UserError
from seqzoo.scoring import is_tokenized, signs_of_tokens


@pytest.fixture
def test_set(tmp_path):
    """Writes as many lines as a test set has, and outputs; says where."""

    def write(name, lines, reference='Der Hund lief fort, sagte er.', output=None):
        paths = [tmp_path / name, tmp_path / f'{name}.hyp']
        for path, line in zip(paths, (reference, output or reference), strict=True):
            path.write_text(f'{line}\n' * lines, 'utf-8')
        return [str(path) for path in reversed(paths)]

    return write


def test_a_papers_figure_stands_beside_its_own_dialect_alone(test_set, capsys):
    files = test_set('test.de', 3003)
    words = ['score', *files, '--published', 'transformer_base_wmt14_ende']
    assert main([*words, '--only', 'bleu,bleu_compound_split_quotes']) == 0
    text = capsys.readouterr().out
    assert '27.3' in text
    assert 'compared with bleu_compound_split_quotes alone' in text
    assert main([*words, '--only', 'bleu']) == 2
    assert 'cannot be compared' in capsys.readouterr().err
    assert main(['score', *files, '--published', 'lstm_ptb']) == 2
    assert 'no figure' in capsys.readouterr().err


def test_a_tokenised_figure_stands_beside_tokens_whoever_made_them(test_set, capsys):
    """Output as `seqzoo predict` writes it has to be tokenised first, as the paper's was."""
    words = ['--published', 'transformer_base_wmt14_enfr', '--json', '--only']
    french = 'Le chien est parti, dit-il, vite.', 'Le chat est parti, dit-il, vite.'
    plain = test_set('plain.fr', 3003, *french)
    assert main(['score', *plain, *words, 'bleu_tokenized,bleu_moses']) == 0
    found = json.loads(capsys.readouterr().out)
    assert found['published']['score'] == 'bleu_moses'
    assert 'not tokenised' in found['published']['notes'][0]
    assert main(['score', *plain, *words, 'bleu_tokenized']) == 2
    assert 'bleu_moses of these files, which are not tokenised;' in capsys.readouterr().err

    moses = MosesTokenizer('fr')
    tokens = test_set('tokens.fr', 3003, *(moses.tokenize(s, return_str=True) for s in french))
    assert main(['score', *tokens, *words, 'bleu_tokenized']) == 0
    again = json.loads(capsys.readouterr().out)
    assert again['published']['score'] == 'bleu_tokenized'
    value = found['scores']['bleu_moses']['value']
    assert again['scores']['bleu_tokenized']['value'] == pytest.approx(value)

    assert main(['score', plain[0], tokens[1], *words, 'bleu_tokenized']) == 2
    assert 'tokens.fr looks tokenised and' in capsys.readouterr().err
    pieces = test_set('pieces.fr', 3003, 'Le chien est par@@ ti , dit-il .')
    assert main(['score', *pieces, *words, 'bleu_tokenized']) == 2
    assert 'holds pieces of words' in capsys.readouterr().err
    german = test_set('tokens.de', 3003, 'Er lief fort , sagte er .')
    assert main(['score', *german, '--published', 'transformer_base_wmt14_ende']) == 2
    assert 'is of detokenised text' in capsys.readouterr().err


def test_a_lower_cased_figure_stands_beside_lower_cased_tokens(test_set, capsys):
    words = ['--published', 'transformer_tiny_multi30k_ende', '--only']
    plain = test_set('plain.de', 1000)
    assert main(['score', *plain, *words, 'bleu_moses_lowercase']) == 0
    assert 'compared with bleu_moses_lowercase alone: 100.00' in capsys.readouterr().out
    tokens = test_set('tokens.de', 1000, 'ein Ärger , sagt er .', 'Ein Ärger , sagt er .')
    assert main(['score', *tokens, *words, 'bleu_tokenized_lowercase']) == 0
    text = capsys.readouterr().out
    assert 'compared with bleu_tokenized_lowercase alone: 100.00' in text
    assert 'lower-cased before, and not from A to Z alone' in text


def test_a_papers_figure_is_of_its_own_language_and_test_set(test_set, capsys):
    ende = ['--published', 'transformer_base_wmt14_ende', '--only', 'bleu_compound_split_quotes']
    assert main(['score', *test_set('three.de', 3), *ende]) == 2
    assert 'newstest2014, which has 3,003 or 2,737 lines, but' in capsys.readouterr().err
    assert main(['score', *test_set('clean.de', 2737), *ende]) == 0
    assert 'number of lines was checked, not the text' in capsys.readouterr().out
    assert main(['score', *test_set('test.fr', 3003), *ende]) == 2
    assert "is of the language 'de' but" in capsys.readouterr().err
    enfr = ['--published', 'transformer_base_wmt14_enfr', '--only', 'bleu_moses', '--json']
    assert main(['score', *test_set('clean.fr', 2737), *enfr]) == 2
    assert 'which has 3,003 lines, but' in capsys.readouterr().err
    # Where no ending says it, the language is that of the configuration.
    assert main(['score', *test_set('test.txt', 3003), *enfr]) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)['language'] == 'fr'
    assert "the rules for 'fr'" in text.err


def test_every_figure_of_a_score_names_a_test_set_of_known_size():
    found = set()
    path = pathlib.Path('file')
    for name in config_names():
        for variant in ('', *(f':{one}' for one in variants(find_config(name)))):
            experiment = load_config(name + variant)
            if experiment.published.score:
                language = target_language(experiment)
                with pytest.raises(UserError, match='lines, but'):
                    check_lines(name, experiment.published.result, language, path, 1)
                found.add(name)
    assert len(found) > 8
    note = check_lines('mine', '30.0 BLEU, my own test', 'de', path, 1)
    assert 'was not checked' in note


def test_tokens_are_told_from_text_by_full_stops_and_commas(data_dir):
    for name in ('wmt/newstest2013.de', 'wmt/newstest2013.en', 'multi30k/test_2016_flickr.fr'):
        with gzip.open(data_dir / f'{name}.gz', 'rt', encoding='utf-8') as file:
            assert is_tokenized(list(file)) is False, name
    for name in ('de', 'en'):
        path = data_dir / 'wmt' / f'newstest2012_3000.tok.{name}.gz'
        with gzip.open(path, 'rt', encoding='utf-8') as file:
            lines = list(file)
        assert is_tokenized(lines) is True
        assert signs_of_tokens([re.sub('&[a-z]+;', 'x', line) for line in lines])
    assert is_tokenized(['zwei und zwanzig', '']) is None
