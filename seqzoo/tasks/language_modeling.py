"""Language modelling: running text in, the probability of each next token to train and to judge.

    loss        mean over the tokens of -log p(w_t | w_1 ... w_{t-1}), in nats
    perplexity  exp(loss)
    bits per character   nats of the whole text / (ln 2 x its characters)

The text is one stream, cut into batches as `data.streams` says. In the order `'streams'` the state
of a recurrent network goes from batch to batch through training, checkpoints and evaluation, while
gradients stop at the borders of a batch: back-propagation through time, truncated to
`batch.max_length` steps. In the order `'windows'` each row of a batch begins anew, in evaluation
too. Models without a state are trained in either.

A batch is packed full whatever texts the stream is made of. With `documents='joined'` a text sees
the ones before it in its row, as GPT-3 was trained; with `'lines'` every line of a file is a text
that sees itself alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.encoding import (
    TextTokenizer,
    TextTokenizerConfig,
    encode_text_cached,
    load_text_tokenizer,
    make_text_tokenizer,
    nominal_size_of,
    save_text_tokenizer,
)
from seqzoo.data.pipeline import RowContent, StepBatch, step_batches, step_specs
from seqzoo.data.plain_text import PlainText, SplitFiles, cut_from
from seqzoo.data.streams import Order, TextEvaluationPlan, TextPlan, TextRows
from seqzoo.data.text_files import Lines
from seqzoo.data.token_store import TokenStore
from seqzoo.data.vocabularies import Characters, Words
from seqzoo.errors import UserError
from seqzoo.models.base import CausalLM, ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums, Task
from seqzoo.tasks.continuation import NextTokens, continue_prompts, next_tokens
from seqzoo.tasks.open_sizes import fill_open
from seqzoo.tasks.sequence_search import causal_search, position_limit
from seqzoo.tasks.streaming import Growing, stream_prompts


@dataclass(frozen=True)
class PreparedText(Prepared):
    """Running text as token ids.

    Attributes:
        tokenizer: of all splits.
        splits: the ids of each, one stream in `TokenStore.ids`.
        texts: the lines of each.
    """

    tokenizer: TextTokenizer
    splits: dict[str, TokenStore]
    texts: dict[str, Lines]

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return self.tokenizer.vocab_size

    @property
    def identity(self) -> dict[str, str]:
        found = {'tokenizer': self.tokenizer.fingerprint}
        if 'train' in self.splits:
            found['training data'] = self.splits['train'].fingerprint
        # Of another file the part to be measured may hold what was trained on.
        if (whole := cut_from(self.texts.values())) is not None:
            found['file whose parts are the splits'] = whole
        return found

    def save(self, run_dir: Path) -> None:
        save_text_tokenizer(self.tokenizer, run_dir)

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """The first rows of a batch as text, for `seqzoo data show`."""
        anew = 'begins anew' if batch['anew'].any() else 'goes on'
        lines = [f'{len(batch["rows"])} rows, {min(rows, len(batch["rows"]))} shown; each {anew}']
        for number, tokens in zip(batch['rows'][:rows], batch['tokens'], strict=False):
            lines += [
                f'row {number}: {self.tokenizer.decode_text(tokens[1:])!r}',
                f'  pieces {" ".join(map(repr, self.tokenizer.pieces(tokens)))}',
                f'  ids {" ".join(map(str, tokens.tolist()))}',
            ]
        return '\n'.join(lines)


@dataclass(frozen=True, kw_only=True)
class LanguageModeling(Task):
    """The probability of text, token by token.

    Attributes:
        corpus: where the text comes from.
        tokenizer: a closed vocabulary of characters or words, byte pairs, or SentencePiece.
        order: `'streams'` carries the state from batch to batch, `'windows'` are shuffled and begin
            anew each.
        random_offset: begin every epoch at another token.
        documents: `'joined'` is one running text; `'lines'` keeps each line apart from the others.
    """

    corpus: PlainText = field(default_factory=SplitFiles)
    tokenizer: TextTokenizerConfig = field(default_factory=Characters)
    order: Order = 'streams'
    random_offset: bool = False
    documents: Literal['joined', 'lines'] = 'joined'

    # The losses, in nats, that evaluation sums up.
    judged_by: ClassVar[tuple[str, ...]] = ('loss',)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.documents == 'lines' and not getattr(self.tokenizer, 'lines_end', True):
            raise UserError(
                "task.documents 'lines' keeps lines apart, but the tokenizer folds their ends into "
                "spaces; take another one, or documents 'joined'."
            )

    @property
    def data_name(self) -> str:
        units = {Characters: 'characters', Words: 'words'}
        return f'{self.corpus.name} {units.get(type(self.tokenizer), "pieces")}'

    @property
    def nominal_vocab_size(self) -> int | None:
        return nominal_size_of(self.tokenizer)

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'loss', 'min'

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
    ) -> PreparedText:
        texts = {split: self.corpus.lines(split, data_dir) for split in splits}
        if run_dir is not None:
            tokenizer = load_text_tokenizer(run_dir)
        elif 'train' in texts:
            tokenizer = make_text_tokenizer(texts['train'], self.tokenizer, cache_dir)
        else:
            raise ValueError('a vocabulary is learnt from the training split or loaded from a run')
        stores = {}
        for split, text in texts.items():
            stores[split] = encode_text_cached(text, tokenizer, cache_dir)
            announce(f'{split}: {len(stores[split].ids):,} tokens in {len(text):,} lines')
        announce(f'vocabulary: {tokenizer.vocab_size:,} entries')
        return PreparedText(tokenizer, stores, texts)

    def prepare_from(self, pretrained: Path, batch: BatchConfig, **options: Any) -> Prepared:
        return self.prepare(batch, run_dir=pretrained, **options)

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedText)
        sizes = {'vocab_size': prepared.vocab_size}
        resolved = fill_open(model, sizes, because='the vocabulary')
        if not isinstance(resolved.build(), CausalLM):
            raise UserError(
                f'{type(model).__name__} is no causal language model; take one for this task.'
            )
        return resolved

    def plan(self, prepared: Prepared, batch: BatchConfig, seed: int) -> TextPlan:
        return TextPlan(
            len(_stores(prepared)['train'].ids),
            batch,
            order=self.order,
            random_offset=self.random_offset,
            seed=seed,
        )

    def longest_evaluated(self, prepared: Prepared, split: str, batch: BatchConfig) -> int:
        return batch.evaluation_max_length or batch.max_length

    def nominal_plan(self, batch: BatchConfig) -> TextPlan:
        return TextPlan(batch.tokens + batch.max_length, batch, order=self.order)

    def nominal_search(
        self, model: nn.Module, config: ModelConfig, batch: BatchConfig, decoding: Decoding
    ) -> tuple[Callable[[Any, Batch], Any], Mapping[str, ArraySpec]]:
        limit = position_limit(model)
        room = batch.max_length if limit is None else limit - decoding.extra_length
        if room < 1:
            raise UserError(
                f'decode.extra_length is {decoding.extra_length}, but the model has only {limit} '
                'positions, for prompt and continuation together; lower it.'
            )
        # Whichever token it is that ends a line.
        stop = 0 if decoding.stop_at_end else None
        wide = ArraySpec((decoding.rows, min(batch.max_length, room)))
        specs = {'tokens': wide, 'segments': wide, 'rows': ArraySpec((decoding.rows,))}
        vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        return causal_search(model, decoding, vocab_size, stop), specs

    def batches(
        self,
        prepared: Prepared,
        plan: TextPlan,
        *,
        start_step: int,
        row_multiple: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[StepBatch]:
        padded = _has_fill_rows(plan, row_multiple)
        return step_batches(
            self.content(plan, padded, prepared, 'train'),
            plan,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            row_multiple=row_multiple,
        )

    def content(
        self,
        plan: TextPlan | TextEvaluationPlan,
        padded: bool,
        prepared: Prepared | None = None,
        split: str = '',
    ) -> RowContent:
        """What the rows of a plan hold of a split; without data only of which shapes."""
        apart = self.documents == 'lines'
        if prepared is None:
            return TextRows(np.zeros(0, np.int32), plan, 0, padded, apart)
        assert isinstance(prepared, PreparedText)
        store, before = prepared.splits[split], prepared.tokenizer.line_end
        return TextRows(store.ids, plan, before, padded, apart, store.directory is not None)

    def batch_specs(
        self, plan: TextPlan, *, row_multiple: int, process_count: int
    ) -> Sequence[Mapping[str, ArraySpec]]:
        content = self.content(plan, _has_fill_rows(plan, row_multiple))
        return step_specs(content, plan, row_multiple=row_multiple, process_count=process_count)

    def first_carry(self, model: nn.Module, plan: TextPlan, *, row_multiple: int) -> Any:
        if self.order == 'windows':
            return ()
        # A padded state would tie the checkpoints of a run to its devices.
        if _has_fill_rows(plan, row_multiple):
            raise UserError(
                f'The text is trained on in {plan.rows} streams (batch.tokens // '
                f'batch.max_length), which cannot be split into {row_multiple} equal parts '
                '(devices that split the rows x train.accumulation); make batch.tokens a multiple '
                f'of {row_multiple * plan.length}, or use fewer devices.'
            )
        return model.initial_carry(plan.rows)  # type: ignore[operator]

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(is_predicted(batch))}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        tokens, targets = batch['tokens'][:, :-1], batch['tokens'][:, 1:]
        segments = batch.get('segments')
        if segments is not None and self.documents == 'joined':
            segments = segments > 0  # one text a row, or nothing

        def forward(module: Any) -> Any:
            output = module(
                tokens,
                segments=segments,
                carry=self._begun(module, batch['anew'], carry),
                train=key is not None,
            )
            return module.unembed(output.features), output.carry, output.losses

        rngs = {} if key is None else {'dropout': key}
        found: Any = model.apply(variables, method=forward, rngs=rngs)
        logits, carry, auxiliary = found
        nll: Any = smoothed_cross_entropy(logits, targets)
        mask = is_predicted(batch)
        weight, total = jnp.sum(mask), jnp.sum(nll[0] * mask)
        # Each is a mean that counts as often as there are tokens: parts of a batch add up.
        losses = {name: value * weight for name, value in auxiliary.items()}
        metrics = {
            name: Sums(jax.lax.stop_gradient(part), weight)
            for name, part in {'loss': total, **losses}.items()
        }
        objective = total + sum(losses.values())
        return Losses({'loss': objective}, metrics), () if self.order == 'windows' else carry

    def _begun(self, module: Any, anew: jax.Array, carry: Any) -> Any:
        """The state with which each row begins: its own, or a new one where `anew` is 1."""
        if self.order == 'windows':
            return ()

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(anew.reshape(-1, *[1] * (old.ndim - 1)) == 1, new, old)

        return jax.tree.map(choose, module.initial_carry(len(anew)), carry)

    # Evaluation and prediction

    def evaluate(
        self,
        runtime: Runtime,
        prepared: Prepared,
        split: str,
        batch: BatchConfig,
        decoding: Decoding | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        """Loss, perplexity and, where characters can be counted, bits per character.

        Every token of the split is predicted exactly once; see `TextEvaluationPlan` for what
        `batch.evaluation_rows` does to the figures.
        """
        del decoding  # nothing is searched for
        assert isinstance(prepared, PreparedText)
        num_tokens = len(prepared.splits[split].ids)
        totals = self._totals(runtime, prepared, split, batch, progress)
        nats = totals.pop('loss')
        metrics = {'loss': nats / num_tokens, 'perplexity': math.exp(nats / num_tokens)}
        for name, total in totals.items():
            metrics[f'{name}_perplexity'] = math.exp(total / num_tokens)
        if (characters := self._characters(prepared, split)) is not None:
            metrics['bits_per_character'] = nats / math.log(2) / characters
        return metrics

    def _totals(
        self,
        runtime: Runtime,
        prepared: PreparedText,
        split: str,
        batch: BatchConfig,
        progress: Callable[[int, int], None],
    ) -> dict[str, float]:
        """-log p of a whole split, and what else `judged_by` names."""

        def nll(variables: Any, batch: Batch, carry: Any) -> tuple[dict[str, Sums], Any]:
            losses, carry = self.loss(runtime.model, variables, batch, carry, key=None)
            return {name: losses.metrics[name] for name in self.judged_by}, carry

        plan = TextEvaluationPlan(len(prepared.splits[split].ids), batch, order=self.order)
        share, shards = row_share(runtime.mesh), row_shards(runtime.mesh)
        batches = step_batches(
            self.content(plan, True, prepared, split),
            plan,
            steps=plan.steps_per_epoch,
            process_index=share.index,
            process_count=share.count,
            row_multiple=shards,
        )
        carry: Any = ()
        if self.order == 'streams':
            rows = -(-plan.rows // shards) * shards // share.count
            shapes = jax.eval_shape(lambda: runtime.model.initial_carry(rows))  # type: ignore[operator]
            carry = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        arrays = (item.arrays for item in batches)
        pending = []
        for found in runtime.fold(f'nll of {plan.rows} rows', nll, arrays, carry):
            pending.append(found)
            progress(len(pending), plan.steps_per_epoch)
        sums = jax.device_get(pending)
        counted = sum(int(part['loss'].weight) for part in sums)
        assert counted == plan.num_tokens, f'{counted} tokens of {plan.num_tokens} were counted'
        return {name: sum(float(part[name].total) for part in sums) for name in self.judged_by}

    def _characters(self, prepared: PreparedText, split: str) -> int | None:
        """Characters of a split as it was read, or `None` for words, which leave out what stood
        between them.
        """
        if isinstance(self.tokenizer, Words):
            return None
        if isinstance(self.tokenizer, Characters):
            return len(prepared.splits[split].ids)
        return sum(len(line) + 1 for line in prepared.texts[split])

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
        """Continues each record by at most `decoding.extra_length` tokens."""
        del batch  # prompts have buckets of their own
        assert isinstance(prepared, PreparedText)
        return continue_prompts(runtime, prepared.tokenizer, records, decoding, progress=progress)

    def stream(
        self,
        runtime: Runtime,
        prepared: Prepared,
        records: Sequence[str],
        decoding: Decoding,
        *,
        steps: int = 8,
    ) -> Iterator[Growing]:
        """As `predict`, a record at a time, and each said every `steps` tokens while it grows."""
        assert isinstance(prepared, PreparedText)
        return stream_prompts(runtime, prepared.tokenizer, records, decoding, steps=steps)

    def next_tokens(
        self, runtime: Runtime, prepared: Prepared, records: Sequence[str], count: int
    ) -> list[NextTokens]:
        """The `count` most probable tokens after each record."""
        assert isinstance(prepared, PreparedText)
        return next_tokens(runtime, prepared.tokenizer, records, count)


def _stores(prepared: Prepared) -> Mapping[str, TokenStore]:
    assert isinstance(prepared, PreparedText)
    return prepared.splits


def _has_fill_rows(plan: TextPlan, row_multiple: int) -> bool:
    return plan.rows % row_multiple != 0


def is_predicted(batch: Batch) -> jax.Array:
    """`[rows, length]` float32: 1 where a token is to be predicted."""
    if 'segments' in batch:
        return (batch['segments'] > 0).astype(jnp.float32)
    return jnp.ones_like(batch['tokens'][:, 1:], jnp.float32)
