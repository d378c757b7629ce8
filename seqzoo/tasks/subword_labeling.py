"""Classification and tagging of text in pieces: what a pre-trained model is fine-tuned for.

    SubwordClassification   [CLS] text [SEP], or [CLS] first [SEP] second [SEP]; one class
    SubwordTagging          [CLS] words in pieces [SEP]; a class for each word, at its first piece
                            (Devlin et al. 2019, section 5.3)

The pieces are those of the pre-trained run (`--pretrained`), or are learnt from the training data.
Language models read a text between the marks that close a line (`data.framing`). While a classifier
on one is fine-tuned it may go on as a language model (Radford et al. 2018, equation 5):

    loss = loss of the classes + language_model_weight * loss of the next tokens
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Column, Columns, Fixed, Ragged
from seqzoo.data.encoding import (
    TextTokenizer,
    TextTokenizerConfig,
    load_text_tokenizer,
    make_text_tokenizer,
    nominal_size_of,
    save_text_tokenizer,
)
from seqzoo.data.framing import framed
from seqzoo.data.labelled import Labelled, LabelledData, Tagged
from seqzoo.data.labelled_texts import RtPolarity
from seqzoo.data.word_lists import without_markup
from seqzoo.data.wordpiece import WordPiece, WordPieceConfig
from seqzoo.errors import UserError
from seqzoo.layers.inputs import TypedTokens
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Sums
from seqzoo.tasks.classification import Classification, of_two_classes
from seqzoo.tasks.column_task import Answers, PreparedColumns, load_learnt
from seqzoo.tasks.labeling import LabelingTask
from seqzoo.tasks.tagging import TagTask

_TOKENIZER = 'tokenizer'  # its place beside what else is learnt


@dataclass(frozen=True)
class PreparedPieces(PreparedColumns):
    """Tables of pieces, and the tokenizer that cut them; among what was learnt it has a place too,
    but in a run a file of its own.
    """

    @property
    def tokenizer(self) -> TextTokenizer:
        """Of all splits."""
        return self.learnt[_TOKENIZER]

    @property
    def identity(self) -> dict[str, str]:
        return {**self._rest.identity, 'tokenizer': self.tokenizer.fingerprint}

    @property
    def _rest(self) -> PreparedColumns:
        rest = {name: value for name, value in self.learnt.items() if name != _TOKENIZER}
        return PreparedColumns(rest, self.splits)

    def save(self, run_dir: Path) -> None:
        self._rest.save(run_dir)
        save_text_tokenizer(self.tokenizer, run_dir)

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """The first rows in pieces, and their classes."""
        lines = []
        for row in range(min(rows, len(batch['rows']))):
            real = batch['segments'][row] > 0
            lines.append(' '.join(self.tokenizer.pieces(batch['inputs'][row][real])))
            for name in {'label', 'tags'} & batch.keys():
                own = batch[name][row]
                lines.append(f'  {name} {own[batch["counts"][row]] if own.ndim else own}')
        return '\n'.join(lines)


@dataclass(frozen=True, kw_only=True)
class ReadsPieces(LabelingTask):
    """What both tasks share: where the tokenizer comes from, and where it is kept.

    Attributes:
        tokenizer: how it is made, where there is no pre-trained run that has one.
    """

    tokenizer: TextTokenizerConfig = field(default_factory=WordPieceConfig)

    @abc.abstractmethod
    def lines(self, example: Any) -> Sequence[str]:
        """The texts of an example, for a tokenizer to learn from."""

    @property
    def nominal_vocab_size(self) -> int | None:
        return nominal_size_of(self.tokenizer)

    def sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        classes: tuple[str, ...] = getattr(self, 'corpus').classes  # noqa: B009
        size = self.nominal_vocab_size if learnt is None else learnt[_TOKENIZER].vocab_size
        known = {} if size is None else {'vocab_size': size}
        return {**known, 'num_outputs': len(classes)}

    def prepare(
        self,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        run_dir: Path | None = None,
        splits: Sequence[str] = ('train', 'dev'),
        announce: Callable[[str], None] = lambda text: None,
    ) -> PreparedColumns:
        del batch

        def learnt(examples: Mapping[str, Any]) -> Mapping[str, Any]:
            if run_dir is not None:
                return {**load_learnt(run_dir), _TOKENIZER: load_text_tokenizer(run_dir)}
            train = examples['train']
            lines = [line for example in train.inputs for line in self.lines(example)]
            tokenizer = make_text_tokenizer(lines, self.tokenizer, cache_dir)
            return {**self.learn(train), _TOKENIZER: tokenizer}

        return self.tabulated(splits, data_dir, learnt, run_dir is None, announce)

    def prepare_from(
        self,
        pretrained: Path,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        announce: Callable[[str], None] = lambda text: None,
    ) -> Prepared:
        del batch, cache_dir  # what the other run learnt is in its folder
        tokenizer = load_text_tokenizer(pretrained)

        def learnt(examples: Mapping[str, Any]) -> Mapping[str, Any]:
            return {**self.learn(examples['train']), _TOKENIZER: tokenizer}

        return self.tabulated(('train', 'dev'), data_dir, learnt, True, announce)

    def prepared(self, learnt: Mapping[str, Any], splits: Mapping[str, Columns]) -> PreparedColumns:
        return PreparedPieces(learnt, splits)


@dataclass(frozen=True, kw_only=True)
class SubwordClassification(ReadsPieces, Classification):
    """One class for each text, or for each pair of texts.

    Attributes:
        max_length: pieces of a row, marks included; longer texts are cut at the end. Mark-up such
            as `<br />` is left out.
        language_model_weight: of the loss of the next tokens; 0.5 in Radford et al. 2018.
    """

    corpus: LabelledData = field(default_factory=RtPolarity)
    max_length: int = 128
    language_model_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length < 5:
            raise UserError(f'task.max_length is {self.max_length}; choose at least 5')
        if self.language_model_weight < 0:
            raise UserError(
                f'task.language_model_weight is {self.language_model_weight}; a weight is not '
                'negative'
            )

    # Data

    def lines(self, example: Any) -> Sequence[str]:
        return [without_markup(t) for t in (example if self.corpus.pairs else (example,))]

    def input_sizes(self, learnt: Mapping[str, Any] | None) -> dict[str, int]:
        sizes = self.sizes(learnt)
        return {name: size for name, size in sizes.items() if name != 'num_outputs'}

    def column(self, inputs: Sequence[Any], learnt: Mapping[str, Any]) -> Column:
        return self._columns(inputs, learnt)['inputs']

    def _columns(self, inputs: Sequence[Any], learnt: Mapping[str, Any]) -> dict[str, Column]:
        tokenizer, width = learnt[_TOKENIZER], 2 if self.corpus.pairs else 1
        lines = [line for example in inputs for line in self.lines(example)]
        pieces = tokenizer.encode_batch(lines)
        rows = [
            framed(tokenizer, pieces[i : i + width], self.max_length)
            for i in range(0, len(pieces), width)
        ]
        return {
            'inputs': Ragged.of([row.tokens for row in rows]),
            'token_types': Ragged.of([row.token_types for row in rows]),
        }

    def encode(self, examples: Labelled, learnt: Mapping[str, Any]) -> Columns:
        return Columns({**self._columns(examples.inputs, learnt), 'label': Fixed(examples.labels)})

    def nominal_column(self, lengths: Sequence[int]) -> Column:
        return Ragged.blank(lengths)

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        table = super().nominal_table(lengths)
        return Columns({**table.columns, 'token_types': Ragged.blank(lengths)})

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        return Columns(self._columns([self.read_line(record) for record in records], learnt))

    def read_line(self, record: str) -> Any:
        if not self.corpus.pairs:
            return record
        texts = record.split('\t')
        if len(texts) != 2:
            shown = repr(record if len(record) <= 40 else f'{record[:39]}…')
            raise UserError(
                f'{shown} is {len(texts)} text{"s" if len(texts) > 1 else ""}, and the model reads '
                'pairs; write two with a tab between them.'
            )
        return tuple(texts)

    # Loss

    def given(self, batch: Batch) -> Batch:
        return {**batch, 'inputs': TypedTokens(batch['inputs'], batch['token_types'])}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Examples; and the tokens that a language model predicts."""
        weights = super().weights(batch)
        if self.language_model_weight:
            weights['next_token'] = jnp.sum(batch['segments'][:, 1:] > 0).astype(jnp.float32)
        return weights

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        if not self.language_model_weight:
            return super().loss(model, variables, batch, carry, key=key)
        inputs, segments = self.given(batch)['inputs'], batch['segments']

        def forward(module: Any) -> Any:
            output = module(inputs, segments=segments, train=key is not None)
            return output.outputs, module.unembed(output.features[:, :-1])

        found: Any = model.apply(
            variables, method=forward, rngs={} if key is None else {'dropout': key}
        )
        classes, next_tokens = found
        judged = self.judged(of_two_classes(classes), batch)
        per_token: Any = smoothed_cross_entropy(next_tokens, batch['inputs'][:, 1:])
        real = (segments[:, 1:] > 0).astype(jnp.float32)
        total = jnp.sum(per_token[0] * real)
        reported = Sums(jax.lax.stop_gradient(total), jnp.sum(real))
        terms = {**judged.terms, 'next_token': self.language_model_weight * total}
        return Losses(terms, {**judged.metrics, 'next_token': reported}), carry


@dataclass(frozen=True, kw_only=True)
class SubwordTagging(ReadsPieces, TagTask):
    """One class for each word, said where its first piece stands."""

    def lines(self, example: Any) -> Sequence[str]:
        return (' '.join(example),)

    def _columns(
        self, sequences: Sequence[Sequence[str]], learnt: Mapping[str, Any]
    ) -> dict[str, Column]:
        """Columns `inputs` and `first`, which is 1 at the first piece of a word."""
        tokenizer = learnt[_TOKENIZER]
        if not isinstance(tokenizer, WordPiece):
            raise UserError(
                'Tagging cuts each word by itself, which only WordPiece does; set '
                '--task.tokenizer to one, or begin with a run that has one.'
            )
        words = tokenizer.encode_words([word for words in sequences for word in words])
        begin, end = [[tokenizer.cls_id]], [[tokenizer.sep_id]]
        tokens, first, done = [], [], 0
        for sequence in sequences:
            own = words[done : done + len(sequence)]
            done += len(sequence)
            tokens.append(np.concatenate([*begin, *own, *end]))
            mark = np.zeros(len(tokens[-1]), bool)
            mark[1 + np.cumsum([0, *map(len, own)])[:-1]] = True
            first.append(mark)
        return {'inputs': Ragged.of(tokens), 'first': Ragged.of(first, bool)}

    def encode(self, examples: Tagged, learnt: Mapping[str, Any]) -> Columns:
        columns = self._columns(examples.inputs, learnt)
        first = columns['first']
        assert isinstance(first, Ragged)
        tags = np.zeros(len(first.values), np.int32)
        tags[first.values] = np.concatenate(examples.tags)
        counts = np.zeros(len(first.values), bool)
        counts[first.values] = np.concatenate(examples.counts)
        return Columns(
            {
                **columns,
                'tags': Ragged(tags, first.offsets),
                'counts': Ragged(counts, first.offsets),
            }
        )

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        names = {'inputs': np.int32, 'first': bool, 'tags': np.int32, 'counts': bool}
        return Columns({name: Ragged.blank(lengths, kind) for name, kind in names.items()})

    def parse(self, records: Sequence[str], learnt: Mapping[str, Any]) -> Columns:
        return Columns(self._columns([self.corpus.cut(record) for record in records], learnt))

    def inputs(self, batch: Batch) -> Any:
        return batch['inputs']

    def unknown(self, table: Columns) -> np.ndarray:
        return np.zeros(len(table.columns['inputs'].values), bool)  # every word has pieces

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        found = super().answers(model, variables, batch)
        return Answers(positions={**found.positions, 'first': batch['first']})

    def prediction(
        self, record: str, answers: Mapping[str, np.ndarray], decoding: Decoding
    ) -> Prediction:
        """As of other taggers, read off at the first pieces."""
        log_probs = answers['log_probs'][answers['first'].astype(bool)]
        return super().prediction(record, {'log_probs': log_probs}, decoding)
