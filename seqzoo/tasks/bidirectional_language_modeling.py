"""Bidirectional language modelling: each word from those before it, and from those behind it.

    loss = mean over the words of -(log p(w_k | w_1 ... w_{k-1}) + log p(w_k | w_{k+1} ... w_n)) / 2

in nats, and perplexity its exponential (Peters et al. 2018, section 3.1). Text, batches and
evaluation are those of `tasks.language_modeling` in the order `'windows'`; a window begins anew in
either direction. Words enter the model by their bytes, whatever they are; predicted are the most
frequent ones, and `<unk>` for the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import ArraySpec, BatchConfig, BatchShape, PlannedBatch
from seqzoo.data.columns import Columns, Ragged
from seqzoo.data.encoding import TextTokenizerConfig
from seqzoo.data.pipeline import RowContent
from seqzoo.data.streams import Order, TextEvaluationPlan, TextPlan
from seqzoo.data.vocabularies import END_OF_LINE, Vocabulary, Words
from seqzoo.data.word_lists import encode_bytes
from seqzoo.errors import UserError
from seqzoo.models.base import BidirectionalLMConfig, ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums, Task
from seqzoo.tasks.column_task import Answers, pass_over
from seqzoo.tasks.continuation import NextTokens
from seqzoo.tasks.labeling import check_bytes
from seqzoo.tasks.language_modeling import LanguageModeling, PreparedText, is_predicted
from seqzoo.tasks.open_sizes import fill_open


@dataclass(frozen=True)
class PreparedWords(PreparedText):
    """Running text as word ids.

    Attributes:
        spelled: `[vocab, bytes]` int16, every entry of the vocabulary by its bytes.
    """

    spelled: np.ndarray


@dataclass(frozen=True)
class SpelledRows:
    """The rows of a text with `bytes`, `[rows, length + 1, width]` int16, beside its `tokens`.

    Attributes:
        rows: without them.
        spelled: `[vocab, width]`.
    """

    rows: RowContent
    spelled: np.ndarray

    @property
    def on_disk(self) -> bool:
        """Whether reading waits for a disk."""
        return self.rows.on_disk

    def arrays(self, planned: PlannedBatch, first_row: int, rows: int) -> Batch:
        """The arrays of `rows` rows of the batch from `first_row` on."""
        found = self.rows.arrays(planned, first_row, rows)
        return {**found, 'bytes': self.spelled[found['tokens']]}

    def specs(self, shape: BatchShape, rows: int) -> dict[str, ArraySpec]:
        """Shapes and types of what `arrays` gives."""
        found = self.rows.specs(shape, rows)
        size = (*found['tokens'].shape, self.spelled.shape[1])
        return {**found, 'bytes': ArraySpec(size, str(self.spelled.dtype))}


@dataclass(frozen=True, kw_only=True)
class BidirectionalLanguageModeling(LanguageModeling):
    """The probability of text, word by word, from either side.

    Attributes:
        tokenizer: the words; those that are not among them are spelled `<unk>` while training.
        predicted_words: the softmax has so many of the most frequent words; `None`: all.
        bytes: places for a word, its two marks included.
    """

    tokenizer: TextTokenizerConfig = field(default_factory=Words)
    order: Order = 'windows'
    predicted_words: int | None = None
    bytes: int = 50

    judged_by: ClassVar = ('loss', 'forward', 'backward')

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order != 'windows':
            raise UserError(
                f'task.order is {self.order!r}: the backward direction has no past to carry; '
                "take 'windows'."
            )
        if not isinstance(self.tokenizer, Words):
            raise UserError(
                f'task.tokenizer is {type(self.tokenizer).__name__}: words are spelled here, so '
                'take Words.'
            )
        if self.predicted_words is not None and self.predicted_words < 2:
            raise UserError(
                f'task.predicted_words is {self.predicted_words}; choose at least 2, or none.'
            )
        check_bytes('task', self.bytes or 1)

    @property
    def nominal_vocab_size(self) -> int | None:
        return self.predicted_words or super().nominal_vocab_size

    # Data

    def prepare(
        self,
        batch: BatchConfig,
        *,
        data_dir: Path | None,
        cache_dir: Path,
        run_dir: Path | None = None,
        splits: Sequence[str] = ('train', 'dev'),
        announce: Callable[[str], None] = lambda text: None,
    ) -> PreparedWords:
        found = super().prepare(
            batch,
            data_dir=data_dir,
            cache_dir=cache_dir,
            run_dir=run_dir,
            splits=splits,
            announce=announce,
        )
        entries = _vocabulary(found).entries
        spelled = encode_bytes(entries, self.bytes)
        return PreparedWords(found.tokenizer, found.splits, found.texts, spelled)

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedText)
        return self._filled(model, prepared.vocab_size, 'the vocabulary')

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        size = self.nominal_vocab_size or getattr(model, 'vocab_size', None) or 10_000
        return self._filled(model, size, 'the task')

    def _filled(self, model: ModelConfig, words: int, because: str) -> ModelConfig:
        if not isinstance(model, BidirectionalLMConfig):
            raise UserError(
                f'{type(model).__name__} is no bidirectional language model; take one for this '
                'task.'
            )
        words = min(words, self.predicted_words or words)
        sizes = {'vocab_size': words, 'max_bytes': self.bytes}
        return fill_open(model, sizes, because=because)

    def content(
        self,
        plan: TextPlan | TextEvaluationPlan,
        padded: bool,
        prepared: Prepared | None = None,
        split: str = '',
    ) -> RowContent:
        rows = super().content(plan, padded, prepared, split)
        if prepared is None:
            return SpelledRows(rows, np.zeros((1, self.bytes), np.int16))
        assert isinstance(prepared, PreparedWords)
        return SpelledRows(rows, prepared.spelled)

    # Loss

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        segments = batch.get('segments')
        if segments is not None:  # the token before those that are predicted is read, too
            segments = jnp.concatenate([segments[:, :1], segments], axis=1)
        nll = both_ways(model, variables, batch['bytes'], batch['tokens'], segments, key)
        mask = is_predicted(batch)
        weight = jnp.sum(mask)
        forward, backward = (jnp.sum(way * mask) for way in nll)
        total = (forward + backward) / 2
        parts = {'loss': total, 'forward': forward, 'backward': backward}
        metrics = {name: Sums(jax.lax.stop_gradient(part), weight) for name, part in parts.items()}
        return Losses({'loss': total}, metrics), carry

    # Prediction

    def nominal_search(
        self, model: nn.Module, config: ModelConfig, batch: BatchConfig, decoding: Decoding
    ) -> tuple[Callable[[Any, Batch], Any], Mapping[str, ArraySpec]]:
        return Task.nominal_search(self, model, config, batch, decoding)  # nothing is searched for

    def predict(
        self,
        runtime: Runtime,
        prepared: Prepared,
        records: Sequence[str],
        batch: BatchConfig,
        decoding: Decoding,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        """Each record as it is: how probable its words are in either direction.

        The score is the mean log-probability of a word, in nats, over both directions; what each
        word gets is among the details.
        """
        del decoding  # nothing is searched for
        words = _vocabulary(prepared)
        found = [Prediction('')] * len(records)
        wanted = [i for i, record in enumerate(records) if record.strip()]
        if not wanted:
            return found
        cut = [words.config.units(records[i]) for i in wanted]
        framed = [[END_OF_LINE, *line, END_OF_LINE] for line in cut]
        ends = np.array([words.line_end], np.int32)
        ids = [np.concatenate([ends, words.encode(records[i]), ends]) for i in wanted]
        spelled = [encode_bytes(line, self.bytes) for line in framed]
        table = Columns({'tokens': Ragged.of(ids), 'bytes': Ragged.of(spelled, np.int16)})

        def answers(variables: Any, batch: Batch) -> Answers:
            tokens, segments = batch['tokens'], batch['segments']
            nll = both_ways(runtime.model, variables, batch['bytes'], tokens, segments, None)
            # A direction says nothing about the word with which it begins.
            return Answers(
                positions={
                    'forward': -jnp.pad(nll[0], ((0, 0), (1, 0))),
                    'backward': -jnp.pad(nll[1], ((0, 0), (0, 1))),
                }
            )

        columns = pass_over(runtime, table, batch, 'both ways', answers, progress).columns
        for row, i in enumerate(wanted):
            # Each column is ragged; the marks around the line are left out.
            log_probs = {name: columns[name][row][1:-1] for name in ('forward', 'backward')}  # type: ignore[index]
            found[i] = _said(records[i], cut[row], log_probs)
        return found

    def next_tokens(
        self, runtime: Runtime, prepared: Prepared, records: Sequence[str], count: int
    ) -> list[NextTokens]:
        """Refuses: half of the model has read what comes behind."""
        raise UserError(
            'This model reads a text from both ends and does not go on with it; what a word gets '
            'from either side stands in `seqzoo predict --json-lines`.'
        )


def both_ways(
    model: nn.Module,
    variables: Any,
    spelled: jax.Array,
    tokens: jax.Array,
    segments: jax.Array | None,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """-log p of each word but the first from those before it, and but the last from those behind.

    Args:
        model: a `models.base.BidirectionalLM`.
        variables: its collections.
        spelled: `[rows, length, width]`, the words by their bytes.
        tokens: `[rows, length]`, the same by number; those that the softmax lacks are number 0.
        segments: `[rows, length]`, 0 at padding; `None`: there is none.
        key: of dropout; `None` leaves it off.

    Returns:
        Two of `[rows, length - 1]` float32, in nats.
    """

    def logits(module: Any) -> jax.Array:
        features = module(spelled, segments=segments, train=key is not None).features
        forward, backward = jnp.split(features, 2, axis=-1)
        # Between two words: what the forward direction has read before, the backward one behind.
        return module.unembed(jnp.concatenate([forward[:, :-1], backward[:, 1:]], axis=-1))

    rngs = {} if key is None else {'dropout': key}
    found: Any = model.apply(variables, method=logits, rngs=rngs)
    targets = jnp.stack([tokens[:, 1:], tokens[:, :-1]], axis=-1)
    known = jnp.where(targets < found.shape[-1], targets, 0)
    per_token: Any = smoothed_cross_entropy(found, known)
    return per_token[0][..., 0], per_token[0][..., 1]


def _vocabulary(prepared: Prepared) -> Vocabulary:
    assert isinstance(prepared, PreparedText)
    assert isinstance(prepared.tokenizer, Vocabulary)
    assert prepared.tokenizer.unk_id == 0, 'words outside the softmax are number 0'
    return prepared.tokenizer


def _said(record: str, words: Sequence[str], log_probs: dict[str, np.ndarray]) -> Prediction:
    total = sum(float(values.sum(dtype=np.float64)) for values in log_probs.values()) / 2
    rounded = {name: [round(float(x), 5) for x in v] for name, v in log_probs.items()}
    score = total / len(words)
    details = {**rounded, 'perplexity': round(math.exp(-score), 4)}
    return Prediction(record, score=score, log_prob=total, tokens=tuple(words), details=details)
