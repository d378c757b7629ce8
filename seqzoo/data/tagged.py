"""Sequences with a class at each position: words and their parts of speech, residues and the
structure that they are part of.

    UniversalDependencies   CoNLL-U files; universal parts of speech (Nivre et al. 2020)
    Cb513                   513 protein domains (Cuff and Barton 1999) in their chains, with the
                            secondary structure by DSSP (Kabsch and Sander 1983), 3 or 8 classes
"""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from seqzoo.data.labelled import Tagged, TaggedData, folds, split_by_folds
from seqzoo.data.public_files import PublicFile
from seqzoo.data.text_files import read_lines
from seqzoo.errors import UserError

UNIVERSAL_TAGS = (
    *('ADJ', 'ADP', 'ADV', 'AUX', 'CCONJ', 'DET', 'INTJ', 'NOUN', 'NUM', 'PART', 'PRON'),
    *('PROPN', 'PUNCT', 'SCONJ', 'SYM', 'VERB', 'X'),
)

_TOKEN = re.compile(r'[0-9]+([-.][0-9]+)?')  # a word; with more, a range or an empty node

_EWT_2_16 = {
    'train': '3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b',
    'dev': '531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6',
}
# As TFDS lists them, with the addresses.
_EWT_2_10 = {
    'train': 'e6a3784727e7726d4f1c2e10ff22dcd0ddeb8869ad6f85b73bb1ff5ef798e944',
    'dev': 'ef962ac05d844eaff46eeded125937129bfc0876d43963d66810cb73ffa8f5df',
    'test': '465100c5b6fb606725068dc70680d65cc047fbb4ae25195375618bc6353a4e58',
}


def _ewt(part: str, release: str, sha256: str) -> PublicFile:
    """A file of a release, which the treebank's repository marks by a tag."""
    place = 'https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT'
    return PublicFile(sha256, f'{place}/r{release}/en_ewt-ud-{part}.conllu')


@dataclass(frozen=True, kw_only=True)
class UniversalDependencies(TaggedData):
    """Words with their universal parts of speech, from `TREEBANK-ud-PART.conllu`.

    Attributes:
        treebank: as in the names of the files.
        train, dev, test: which part each split is. `dev=None`: a tenth of the documents of the
            training part are set aside, so that results can be reported on the part 'dev'.
        seed: which documents are set aside.
        release: which one `seqzoo data prepare` fetches and checks, of the English Web Treebank;
            the checksum of the test part is known for 2.10 alone.
    """

    folder: str = 'ud_english_ewt'
    treebank: str = 'en_ewt'
    train: str = 'train'
    dev: str | None = 'dev'
    test: str = 'test'
    seed: int = 0
    release: Literal['2.16', '2.10'] = '2.16'

    def __post_init__(self) -> None:
        if self.release not in ('2.16', '2.10'):
            raise UserError(f"corpus.release is {self.release!r}; choose '2.16' or '2.10'")

    @property
    def files(self) -> Mapping[str, PublicFile]:
        digests = _EWT_2_16 if self.release == '2.16' else _EWT_2_10
        parts = [part for part in (self.train, self.dev, self.test) if part in digests]
        if self.treebank != 'en_ewt':
            return {}
        return {self._file(part): _ewt(part, self.release, digests[part]) for part in parts}

    @property
    def classes(self) -> tuple[str, ...]:
        return UNIVERSAL_TAGS

    def _file(self, part: str) -> str:
        return f'{self.treebank}-ud-{part}.conllu'

    def read(self, split: str, data_dir: Path | None) -> Tagged:
        self._refuse_split(split)
        part = {'train': self.train, 'dev': self.dev, 'test': self.test}[split]
        path = self._find(data_dir, self._file(self.train if part is None else part), split)
        numbers = {tag: number for number, tag in enumerate(UNIVERSAL_TAGS)}
        words, tags, documents = [], [], []
        for document, sentence in read_conllu(path):
            words.append([word for word, _ in sentence])
            try:
                tags.append(np.array([numbers[tag] for _, tag in sentence], np.int32))
            except KeyError as error:
                raise UserError(
                    f'{path}: {error.args[0]!r} is no universal part of speech; the tags stand in '
                    'the fourth column'
                ) from error
            # Without documents each sentence stands for itself.
            documents.append(document or f'sentence {len(words)}')
        found = Tagged(words, tags, [np.ones(len(t), bool) for t in tags])
        if split == 'test' or self.dev is not None:
            return found
        set_aside = folds(documents, 10, seed=self.seed) == 0
        return found.chosen(np.flatnonzero(set_aside == (split == 'dev')))


def read_conllu(path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The sentences of a CoNLL-U file: name of the document, and (form, universal tag) of each
    word.

    Ranges of several words (`3-4`) and empty nodes (`5.1`) are left out: their parts are words of
    their own.

    Raises:
        UserError: a line has not ten columns, no number, or no form (says where).
    """
    document, sentence = '', []
    lines = enumerate(read_lines(path), 1)
    for number, line in itertools.chain(lines, [(0, '')]):
        if not line.strip():
            if sentence:
                yield document, sentence
            sentence = []
        elif line.startswith('#'):
            key, _, value = line[1:].partition('=')
            if key.strip() == 'newdoc id':
                document = value.strip()
        else:
            columns = line.split('\t')
            if len(columns) != 10:
                raise UserError(
                    f'{path}: line {number} has {len(columns)} columns, not the ten of CoNLL-U; '
                    'fetch the file again'
                )
            if not (kind := _TOKEN.fullmatch(columns[0])) or not columns[1].strip():
                wrong = 'an empty form' if kind else f'the number {columns[0][:20]!r}'
                raise UserError(
                    f'{path}: line {number} has {wrong}; a word is numbered as 3, 3-4 or 3.1 in '
                    'the first column and stands in the second: fetch the file again'
                )
            if not kind[1]:
                sentence.append((columns[1], columns[3]))


@dataclass(frozen=True, kw_only=True)
class Cb513(TaggedData):
    """Protein chains with the secondary structure of each residue, in ten parts.

    Equal chains, of which different domains count, come into one part. Positions outside the
    domains of CB513 are seen, but neither trained on nor scored.

    Attributes:
        states: 3 (helix H, strand E, coil C) or 8 (those of DSSP).
        fold: the part to test on, 0 to 9; the one behind it is 'dev'.
        seed: which chain comes into which part.
    """

    folder: str = 'protein_ss'
    states: Literal[3, 8] = 3
    fold: int = 0
    seed: int = 0

    separator: ClassVar[str] = ''
    published: ClassVar = {
        'CB513_HHblits.csv': PublicFile(
            '829e357259fd132e945af4ea4ffa4233f135e886b749a2fc5111b41102537afc'
        ),
    }

    def __post_init__(self) -> None:
        if self.states not in (3, 8):
            raise UserError(f'corpus.states is {self.states}; choose 3 or 8')
        if not 0 <= self.fold < 10:
            raise UserError(f'corpus.fold is {self.fold}; the ten parts are 0 to 9')

    @property
    def name(self) -> str:
        return f'cb513 q{self.states}'

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple('HEC') if self.states == 3 else tuple('HGIEBTSC')

    def read(self, split: str, data_dir: Path | None) -> Tagged:
        self._refuse_split(split)
        path = self._find(data_dir, 'CB513_HHblits.csv', split)
        numbers = {name: number for number, name in enumerate(self.classes)}
        chains, tags, counts = [], [], []
        for row, record in enumerate(_records(path), 1):
            try:
                residues = record['input'].split()
                states = [numbers[s] for s in record[f'dssp{self.states}'].split()]
                mask = [float(m) == 1 for m in record['cb513_mask'].split()]
            except (KeyError, ValueError, AttributeError) as error:
                raise UserError(
                    f'{path}: chain {row} has no such columns or states ({error}); fetch the file '
                    'again'
                ) from error
            if not len(residues) == len(states) == len(mask):
                raise UserError(
                    f'{path}: chain {row} has {len(residues)} residues, {len(states)} states and '
                    f'{len(mask)} marks; fetch the file again'
                )
            chains.append(residues)
            tags.append(np.array(states, np.int32))
            counts.append(np.array(mask))
        found = folds([' '.join(chain) for chain in chains], 10, seed=self.seed)
        chosen = split_by_folds(found, split, 10, self.fold)
        return Tagged(chains, tags, counts).chosen(chosen)


def _records(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a CSV file by the columns that its first line names."""
    table = csv.DictReader(io.StringIO('\n'.join(read_lines(path))), skipinitialspace=True)
    try:
        yield from table
    except csv.Error as error:
        raise UserError(
            f'{path}: line {table.reader.line_num} cannot be read ({error}); fetch the file again'
        ) from error
