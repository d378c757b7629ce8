"""Batches for masked language modelling (Devlin et al. 2019, section 3.1 and appendix A.1):
excerpts of documents, of which some tokens are hidden.

A text is lines, and some lines begin a document. Each document is cut into excerpts that fill a
row: as many whole lines as there is room for, or a part of a longer line. A row is

    [CLS] excerpt [SEP]                        or, with pairs,
    [CLS] first part [SEP] second part [SEP]   the excerpt, cut between two of its lines; in half of
                                               the rows the second part comes from elsewhere: it
                                               begins with some line of another document

Of the tokens of a row 15 % are to be predicted. Of these 80 % are hidden behind `[MASK]`, 10 % are
exchanged for any other token, and 10 % stay. With whole words all pieces of a word are predicted,
or none.

Which excerpts are in a step is a function of (seed, step); how an excerpt is cut, paired and masked
one of (seed, epoch, excerpt). Rows, devices and processes have no part in it.

Deviations from the authors' code: every epoch has other masks and other pairs (theirs are drawn ten
times and written down); what a second part from elsewhere displaces is not read in that epoch; no
row is shortened at random; tokens that are exchanged become any piece that is text. Of whole words
that do not all fit into the 15 %, smaller ones are not searched for.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from seqzoo.data.batching import (
    ArraySpec,
    Batch,
    BatchConfig,
    BatchShape,
    Padding,
    PlannedBatch,
    Selection,
    permutation,
)
from seqzoo.data.pipeline import examples_digest
from seqzoo.data.streams import refuse_options_of_sentences
from seqzoo.data.token_store import TokenStore
from seqzoo.data.wordpiece import WordPiece
from seqzoo.errors import UserError

FOLLOWS, FROM_ELSEWHERE = 0, 1  # what is said of a pair

# Streams of random numbers of an excerpt.
_PAIR, _CHOICE, _FATE, _EXCHANGE = range(4)


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        share: of the tokens of a row, marks included, that are predicted.
        masked, exchanged: shares of these that become `[MASK]`, or another token; the rest stays.
        whole_words: predict all pieces of a word or none.
    """

    share: float = 0.15
    masked: float = 0.8
    exchanged: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f'masking.share is {self.share}; choose a number between 0 and 1')
        if min(self.masked, self.exchanged) < 0 or self.masked + self.exchanged > 1:
            raise UserError(
                f'masking.masked is {self.masked} and masking.exchanged {self.exchanged}; they are '
                'shares of one whole'
            )

    def places(self, length: int) -> int:
        """Predictions in a row of `length`, at most."""
        return max(1, round(self.share * length))


def document_starts(lines: Iterable[str], pattern: str) -> np.ndarray:
    """`[lines]` bool: which lines begin a document, those that `pattern` matches as a whole.

    Raises:
        UserError: the pattern is no regular expression.
    """
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise UserError(
            f'task.document_start is {pattern!r}, which is no regular expression ({error})'
        ) from error
    return np.fromiter((matches(line) is not None for line in lines), bool)


@dataclass(frozen=True)
class Documents:
    """A text as tokens, with the borders of its lines and documents; empty lines are left out.

    Attributes:
        ids: `[tokens]` int32.
        line_starts: `[lines + 1]` int64, in tokens.
        document_of: `[lines]` int32.
        document_lines: `[documents + 1]` int64, in lines.
        fingerprint: of tokens and borders.
        on_disk: whether reading waits for a disk.
    """

    ids: np.ndarray
    line_starts: np.ndarray
    document_of: np.ndarray
    document_lines: np.ndarray
    fingerprint: str = ''
    on_disk: bool = False

    @classmethod
    def of(cls, store: TokenStore, starts: np.ndarray) -> 'Documents':
        """From the tokens of all lines, empty ones too, and whether each begins a document."""
        lengths = np.diff(store.offsets)
        full = lengths > 0
        # A line that begins a document may be empty itself.
        begun = np.diff(np.cumsum(starts)[full], prepend=-1) > 0
        first, document_of = np.flatnonzero(begun), np.cumsum(begun, dtype=np.int32) - 1
        return cls(
            ids=store.ids,
            line_starts=np.concatenate([store.offsets[:-1][full], store.offsets[-1:]]),
            document_of=document_of,
            document_lines=np.append(first, len(document_of)).astype(np.int64),
            fingerprint=f'{store.fingerprint} {examples_digest(document_of)}',
            on_disk=store.directory is not None,
        )

    def __len__(self) -> int:
        return len(self.document_lines) - 1

    def excerpts(self, room: int) -> np.ndarray:
        """`[excerpts, 2]` int64 bounds in tokens, none of more than `room` tokens."""
        found = []
        for first, last in zip(self.document_lines[:-1], self.document_lines[1:], strict=True):
            borders = self.line_starts[first : last + 1]
            start, end = int(borders[0]), int(borders[-1])
            while start < end:
                # The last border that is near enough, or else as much as there is room for.
                near = int(borders[np.searchsorted(borders, start + room, side='right') - 1])
                stop = near if near > start else start + room
                found.append((start, stop))
                start = stop
        return np.array(found, np.int64).reshape(-1, 2)


class MaskedTextPlan:
    """Batches of excerpts.

    Attributes:
        rows, length: of every batch.
        excerpts: `[excerpts, 2]` bounds in tokens.
        pairs: whether a row has two parts.
        steps_per_epoch: batches in an epoch.
        shapes: one.

    Args:
        documents: the text.
        config: budget and length; options that speak of sentences are refused.
        pairs: whether a row has two parts.
        seed: of everything that is drawn.
        shuffled: training; otherwise every excerpt comes once, in order, and the last batch may
            have fewer.

    Raises:
        UserError: there is less text than a batch holds, or only one document to make pairs of.
    """

    def __init__(
        self,
        documents: Documents,
        config: BatchConfig,
        *,
        pairs: bool,
        seed: int = 0,
        shuffled: bool = True,
    ):
        refuse_options_of_sentences(config)
        self.pairs, self.seed, self.shuffled = pairs, seed, shuffled
        self.length = config.max_length
        self.marks = 3 if pairs else 2
        if self.length < self.marks + 2:
            raise UserError(
                f'batch.max_length is {self.length}; with {self.marks} marks a row needs at least '
                f'{self.marks + 2}'
            )
        self.rows = config.tokens // config.max_length
        if not shuffled and config.evaluation_rows:
            self.rows = config.evaluation_rows
        self.excerpts = documents.excerpts(self.length - self.marks)
        if pairs and len(documents) < 2:
            raise UserError(
                'half of the pairs are parts of different documents, but the text is a single one: '
                'say with --task.document-start which lines begin a document, or set '
                '--task.next-sentence false'
            )
        count = len(self.excerpts)
        if shuffled and count < self.rows:
            raise UserError(
                f'the training text has {count:,} excerpts of at most '
                f'{self.length - self.marks} tokens, fewer than the {self.rows} rows of a batch '
                '(batch.tokens // batch.max_length); lower batch.tokens, or take more text'
            )
        self.steps_per_epoch = count // self.rows if shuffled else -(-count // self.rows)
        self.shapes = (BatchShape(self.rows, self.length, self.length),)
        self._order = (-1, np.zeros(0, np.int64))

    @property
    def selection(self) -> Selection:
        """All excerpts."""
        return Selection.whole(self._lengths(np.arange(len(self.excerpts))))

    @property
    def padding(self) -> Padding:
        """Of rows whose parts follow each other."""
        share = 1 - float(np.mean(self._lengths(np.arange(len(self.excerpts))))) / self.length
        return Padding(source=share, target=share)

    def epoch(self, step: int) -> int:
        """Of a step; it decides on masks and pairs."""
        return step // self.steps_per_epoch if self.shuffled else 0

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step; its examples are numbers of excerpts."""
        place = step % self.steps_per_epoch
        order = self._ordered(self.epoch(step))
        examples = order[place * self.rows : (place + 1) * self.rows]
        nothing = np.zeros(len(examples), np.int64)
        lengths = self._lengths(examples)
        return PlannedBatch(
            step=step,
            bucket=0,
            shape=self.shapes[0],
            example_ids=np.pad(examples, (0, self.rows - len(examples)), constant_values=-1),
            examples=examples,
            row=np.arange(len(examples)),
            segment=nothing + 1,
            source_offset=nothing,
            target_offset=nothing,
            source_lengths=lengths,
            target_lengths=lengths,
        )

    def _lengths(self, examples: np.ndarray) -> np.ndarray:
        bounds = self.excerpts[examples]
        return (bounds[:, 1] - bounds[:, 0] + self.marks).astype(np.int32)

    def _ordered(self, epoch: int) -> np.ndarray:
        known, order = self._order
        if known != epoch:
            count = len(self.excerpts)
            order = permutation(count, self.seed, epoch) if self.shuffled else np.arange(count)
            self._order = (epoch, order)
        return order


@dataclass(frozen=True)
class MaskedTextRows:
    """The arrays of a batch of excerpts, a `pipeline.RowContent`.

        tokens         [rows, length] int32, as they are read: some of them hidden
        token_types    [rows, length] int32, 1 in the second part of a pair
        segments       [rows, length] int32, 1 at tokens, 0 at padding
        places         [rows, places] int32, where tokens are to be predicted; 0 beyond them
        targets        [rows, places] int32, the tokens that stood there
        predicted      [rows, places] float32, 1 where there is a token to be predicted
        next_sentence  [rows] int32: the second part follows the first (0), or does not (1); only
                       with pairs
        weight         [rows] float32, 1 for an excerpt, 0 for a row that only fills up

    Attributes:
        documents: the text.
        plan: says which excerpts stand where.
        tokenizer: of the text.
        masking: how tokens are hidden.
    """

    documents: Documents
    plan: MaskedTextPlan
    tokenizer: WordPiece
    masking: Masking

    @property
    def on_disk(self) -> bool:
        return self.documents.on_disk

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        """The arrays of `rows` rows of the batch from `first_row` on."""
        examples = planned.examples[first_row : first_row + rows]
        key = _key(self.plan.seed, self.plan.epoch(planned.step))
        tokens, types, segments = np.zeros((3, rows, self.plan.length), np.int32)
        following, weight = np.zeros(rows, np.int32), np.zeros(rows, np.float32)
        draws = uniforms(key, examples, 3, _PAIR)
        cls, sep = self.tokenizer.cls_id, self.tokenizer.sep_id
        for row, (example, draw) in enumerate(zip(examples, draws, strict=True)):
            first, second, following[row] = self._parts(int(example), draw)
            line = [[cls], first, [sep]]
            if self.plan.pairs:
                line += [second, [sep]]
            whole = np.concatenate(line)
            tokens[row, : len(whole)] = whole
            types[row, len(first) + 2 : len(whole)] = 1
            segments[row, : len(whole)] = 1
            weight[row] = 1
        arrays = self._hidden(tokens, segments, np.resize(examples, rows), key)
        arrays |= {'token_types': types, 'segments': segments, 'weight': weight}
        return {**arrays, 'next_sentence': following} if self.plan.pairs else arrays

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        """Shapes and types of what `arrays` gives."""
        length = shape.source_length
        wide, few = (rows, length), (rows, self.masking.places(length))
        found = {name: ArraySpec(wide) for name in ('tokens', 'token_types', 'segments')}
        found |= {'places': ArraySpec(few), 'targets': ArraySpec(few)}
        found |= {'predicted': ArraySpec(few, 'float32'), 'weight': ArraySpec((rows,), 'float32')}
        return {**found, 'next_sentence': ArraySpec((rows,))} if self.plan.pairs else found

    def _parts(self, example: int, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Tokens of the first and the second part, and whether they follow each other."""
        text, ids = self.documents, self.documents.ids
        start, stop = self.plan.excerpts[example]
        if not self.plan.pairs:
            return ids[start:stop], ids[:0], FOLLOWS
        inner = slice(*np.searchsorted(text.line_starts, [start + 1, stop]))
        borders = text.line_starts[inner]
        if len(borders):
            cut = int(borders[int(draw[0] * len(borders))])
        else:  # within a line: between two words, if there is such a place behind the one drawn
            cut = int(start + 1 + draw[0] * max(0, stop - start - 1))
            here = np.flatnonzero(~self.tokenizer.continues[ids[cut:stop]])
            cut += int(here[0]) if len(here) else 0
        if cut < stop and draw[1] >= 0.5:
            return ids[start:cut], ids[cut:stop], FOLLOWS
        room = self.plan.length - self.plan.marks - (cut - start)
        if room < 1:  # a single token fills the row
            cut, room = cut - 1, 1
        return ids[start:cut], self._from_elsewhere(start, room, float(draw[2])), FROM_ELSEWHERE

    def _from_elsewhere(self, start: int, room: int, draw: float) -> np.ndarray:
        """At most `room` tokens from the beginning of a line of another document."""
        text = self.documents
        own = text.document_of[np.searchsorted(text.line_starts, start, side='right') - 1]
        first, last = text.document_lines[own : own + 2]
        line = int(draw * (len(text.document_of) - (last - first)))
        line += int(last - first) if line >= first else 0
        end = text.line_starts[text.document_lines[text.document_of[line] + 1]]
        begin = text.line_starts[line]
        return text.ids[begin : min(begin + room, end)]

    def _hidden(
        self, tokens: np.ndarray, segments: np.ndarray, examples: np.ndarray, key: int
    ) -> Batch:
        """Hides tokens, and says where and which."""
        tokenizer, masking = self.tokenizer, self.masking
        rows, length = tokens.shape
        marks = (tokens == tokenizer.cls_id) | (tokens == tokenizer.sep_id)
        free = (segments > 0) & ~marks
        begins = ~(tokenizer.continues[tokens] & masking.whole_words) | marks
        begins[:, 1:] |= marks[:, :-1]
        word = np.maximum.accumulate(np.where(begins, np.arange(length), 0), axis=1)
        chance = np.take_along_axis(uniforms(key, examples, length, _CHOICE), word, axis=1)
        # The first of the words in a drawn order, as many as there is room for.
        rank = np.argsort(np.argsort(np.where(free, chance, 2.0), axis=1, kind='stable'), axis=1)
        count = segments.sum(axis=1, keepdims=True)
        wanted = np.minimum(np.round(masking.share * count), masking.places(length))
        chosen = free & (rank < np.maximum(wanted, 1))
        row = np.broadcast_to(np.arange(rows)[:, None], tokens.shape)
        of_word, chosen_of_word = np.zeros((2, rows, length), np.int32)
        np.add.at(of_word, (row, word), free)
        np.add.at(chosen_of_word, (row, word), chosen)
        chosen &= np.take_along_axis(of_word == chosen_of_word, word, axis=1)
        places = np.argsort(~chosen, axis=1, kind='stable')[:, : masking.places(length)]
        predicted = np.take_along_axis(chosen, places, axis=1)
        targets = np.take_along_axis(tokens, places, axis=1)
        fate = uniforms(key, examples, length, _FATE)
        number = uniforms(key, examples, length, _EXCHANGE) * len(tokenizer.ordinary)
        exchanged = np.where(
            fate < masking.masked + masking.exchanged,
            tokenizer.ordinary[number.astype(int)],
            tokens,
        )
        read = np.where(fate < masking.masked, tokenizer.mask_id, exchanged)
        return {
            'tokens': np.where(chosen, read, tokens).astype(np.int32),
            'places': np.where(predicted, places, 0).astype(np.int32),
            'targets': np.where(predicted, targets, 0).astype(np.int32),
            'predicted': predicted.astype(np.float32),
        }


def _key(seed: int, epoch: int) -> int:
    sequence = np.random.SeedSequence([seed % 2**64, epoch, 2])
    return int(np.random.Philox(sequence).random_raw())


def uniforms(key: int, examples: np.ndarray, count: int, stream: int) -> np.ndarray:
    """`[examples, count]` float64 in [0, 1), a function of key, example, place and stream alone.

    Two rounds of the finaliser of SplitMix64 (Steele, Lea and Flood 2014) over a counter: there is
    no generator whose state would tie one row to the rows before it.
    """
    with np.errstate(over='ignore'):
        row = _mixed(np.uint64(key) + examples.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        place = np.arange(count, dtype=np.uint64) + np.uint64(stream << 32)
        bits = _mixed(row[:, None] + (place + np.uint64(1)) * np.uint64(0xD1342543DE82EF95))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
