"""Masked language modelling: text with hidden tokens in, the probability of each of them out; and
of two pieces of text, whether one follows the other (Devlin et al. 2019, section 3.1).

    loss        mean over the predicted tokens of -log p(token | the row)
                + mean over the rows of -log p(follows, or does not)         with `next_sentence`
    perplexity  exp of the first mean; it is not comparable with that of a language model, which
                does not see what comes behind a token

How rows are made, and which tokens are hidden, `data.masked_text` says. Logits are computed at the
places that are predicted alone, a fixed number in each row.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.encoding import (
    encode_lines_cached,
    load_text_tokenizer,
    make_text_tokenizer,
    save_text_tokenizer,
)
from seqzoo.data.masked_text import (
    Documents,
    MaskedTextPlan,
    MaskedTextRows,
    Masking,
    document_starts,
)
from seqzoo.data.pipeline import StepBatch, step_batches, step_specs
from seqzoo.data.plain_text import PlainText, SplitFiles
from seqzoo.data.wordpiece import WordPiece, WordPieceConfig
from seqzoo.errors import UserError
from seqzoo.layers.inputs import TypedTokens
from seqzoo.models.base import MaskedLMConfig, ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums, Task
from seqzoo.tasks.continuation import NextTokens
from seqzoo.tasks.filling import fill_masks, hidden_tokens
from seqzoo.tasks.open_sizes import fill_open

_EVALUATION_SEED = 0  # of masks and pairs: every evaluation asks the same


@dataclass(frozen=True)
class PreparedDocuments(Prepared):
    """Documents as token ids.

    Attributes:
        tokenizer: of all splits.
        splits: the documents of each.
    """

    tokenizer: WordPiece
    splits: Mapping[str, Documents]

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        return self.tokenizer.vocab_size

    @property
    def identity(self) -> dict[str, str]:
        found = {'tokenizer': self.tokenizer.fingerprint}
        if 'train' in self.splits:
            found['training data'] = self.splits['train'].fingerprint
        return found

    def save(self, run_dir: Path) -> None:
        save_text_tokenizer(self.tokenizer, run_dir)

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """The first rows of a batch as they are read, and what is to be predicted."""
        total = len(batch['rows'])
        lines = [f'{total} rows of {batch["tokens"].shape[1]}, {min(rows, total)} shown']
        for row in range(min(rows, total)):
            real, predicted = batch['segments'][row] > 0, batch['predicted'][row] > 0
            follows = ''
            if 'next_sentence' in batch:
                follows = ', from elsewhere' if batch['next_sentence'][row] else ', following'
            pieces = self.tokenizer.pieces(batch['targets'][row][predicted])
            places = batch['places'][row][predicted]
            lines += [
                f'row {batch["rows"][row]}{follows}: '
                f'{self.tokenizer.decode(batch["tokens"][row][real])}',
                '  predicted '
                + ' '.join(f'{p}:{piece}' for p, piece in zip(places, pieces, strict=True)),
            ]
        return '\n'.join(lines)


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageModeling(Task):
    """Hidden tokens, and pairs of texts.

    Attributes:
        corpus: where the text comes from.
        tokenizer: of its pieces.
        document_start: a regular expression; a line that it matches as a whole begins a document.
            By default that is a blank one.
        next_sentence: rows are pairs, of which half do not belong together.
        masking: how tokens are hidden.
    """

    corpus: PlainText = field(default_factory=SplitFiles)
    tokenizer: WordPieceConfig = field(default_factory=WordPieceConfig)
    document_start: str = r'\s*'
    next_sentence: bool = True
    masking: Masking = field(default_factory=Masking)

    @property
    def data_name(self) -> str:
        return f'{self.corpus.name} pieces'

    @property
    def nominal_vocab_size(self) -> int | None:
        return self.tokenizer.vocab_size

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        sizes = {'vocab_size': self.tokenizer.vocab_size}
        return fill_open(model, sizes, because='the tokenizer', keep=True)

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
    ) -> PreparedDocuments:
        del batch
        texts = {split: self.corpus.lines(split, data_dir) for split in splits}
        if run_dir is not None:
            tokenizer = load_text_tokenizer(run_dir)
        elif 'train' in texts:
            tokenizer = make_text_tokenizer(texts['train'], self.tokenizer, cache_dir)
        else:
            raise ValueError('a vocabulary is learnt from the training split or loaded from a run')
        if not isinstance(tokenizer, WordPiece):
            raise UserError(
                f'{run_dir} holds no WordPiece vocabulary, and only that has a [MASK]; begin with '
                'a run of masked language modelling.'
            )
        found = {}
        for split, lines in texts.items():
            store = encode_lines_cached(lines, tokenizer, cache_dir)
            found[split] = Documents.of(store, document_starts(lines, self.document_start))
            announce(
                f'{split}: {len(store.ids):,} tokens in {len(found[split].document_of):,} lines '
                f'of {len(found[split]):,} documents'
            )
        announce(f'vocabulary: {tokenizer.vocab_size:,} entries')
        return PreparedDocuments(tokenizer, found)

    def prepare_from(self, pretrained: Path, batch: BatchConfig, **options: Any) -> Prepared:
        return self.prepare(batch, run_dir=pretrained, **options)

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedDocuments)
        sizes = {'vocab_size': prepared.vocab_size}
        resolved = fill_open(model, sizes, because='the vocabulary')
        if not isinstance(resolved, MaskedLMConfig):
            raise UserError(
                f'{type(model).__name__} is no masked language model; take one for this task.'
            )
        if self.next_sentence and not resolved.has_next_sentence:
            raise UserError(
                'task.next_sentence makes pairs, but the model has nothing to say of them; set '
                '--task.next-sentence false, or --model.next-sentence true.'
            )
        return resolved

    def plan(self, prepared: Prepared, batch: BatchConfig, seed: int) -> MaskedTextPlan:
        return MaskedTextPlan(
            _documents(prepared, 'train'), batch, pairs=self.next_sentence, seed=seed
        )

    def nominal_plan(self, batch: BatchConfig) -> MaskedTextPlan:
        # As many documents as a batch has rows, each long enough for one.
        count = max(batch.tokens // batch.max_length, 2)
        documents = Documents(
            ids=np.zeros(count * batch.max_length, np.int32),
            line_starts=np.arange(count + 1, dtype=np.int64) * batch.max_length,
            document_of=np.arange(count, dtype=np.int32),
            document_lines=np.arange(count + 1, dtype=np.int64),
        )
        return MaskedTextPlan(documents, batch, pairs=self.next_sentence)

    def batches(
        self,
        prepared: Prepared,
        plan: MaskedTextPlan,
        *,
        start_step: int,
        row_multiple: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[StepBatch]:
        return step_batches(
            self._rows(prepared, 'train', plan),
            plan,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            row_multiple=row_multiple,
        )

    def batch_specs(
        self, plan: MaskedTextPlan, *, row_multiple: int, process_count: int
    ) -> Sequence[Mapping[str, ArraySpec]]:
        content: Any = MaskedTextRows(None, plan, None, self.masking)  # type: ignore[arg-type]
        return step_specs(content, plan, row_multiple=row_multiple, process_count=process_count)

    def _rows(self, prepared: Prepared, split: str, plan: MaskedTextPlan) -> MaskedTextRows:
        assert isinstance(prepared, PreparedDocuments)
        return MaskedTextRows(prepared.splits[split], plan, prepared.tokenizer, self.masking)

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Predicted tokens; and rows."""
        found = {'masked': jnp.sum(batch['predicted'])}
        return {**found, 'next_sentence': jnp.sum(batch['weight'])} if self.next_sentence else found

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        def forward(module: Any) -> Any:
            inputs = TypedTokens(batch['tokens'], batch['token_types'])
            output = module(inputs, segments=batch['segments'], train=key is not None)
            # [rows, length, embed] -> [rows, places, embed]
            few = jnp.take_along_axis(output.features, batch['places'][..., None], axis=1)
            return module.unembed(few), output.next_sentence

        rngs = {} if key is None else {'dropout': key}
        found: Any = model.apply(variables, method=forward, rngs=rngs)
        logits, following = found
        terms, metrics = {}, {}
        terms['masked'], metrics['loss'], metrics['masked_accuracy'] = _judged(
            logits, batch['targets'], batch['predicted']
        )
        if self.next_sentence:
            parts = _judged(following, batch['next_sentence'], batch['weight'])
            terms['next_sentence'] = parts[0]
            metrics['next_sentence_loss'], metrics['next_sentence_accuracy'] = parts[1:]
        return Losses(terms, metrics), carry

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
        """Loss, perplexity and accuracy of the hidden tokens, and of the pairs.

        Every excerpt is asked about once, with masks and pairs that are always the same.
        """
        del decoding  # nothing is searched for

        def sums(variables: Any, batch: Batch, carry: Any) -> tuple[Any, Any]:
            losses, _ = self.loss(runtime.model, variables, batch, (), key=None)
            rows = Sums(jnp.sum(batch['weight']), jnp.sum(batch['weight']))
            return {**losses.metrics, 'rows': rows}, carry

        plan = MaskedTextPlan(
            _documents(prepared, split),
            batch,
            pairs=self.next_sentence,
            seed=_EVALUATION_SEED,
            shuffled=False,
        )
        share = row_share(runtime.mesh)
        batches = step_batches(
            self._rows(prepared, split, plan),
            plan,
            steps=plan.steps_per_epoch,
            process_index=share.index,
            process_count=share.count,
            row_multiple=row_shards(runtime.mesh),
        )
        arrays = (item.arrays for item in batches)
        pending = []
        for found in runtime.fold(f'masked {plan.rows} rows', sums, arrays, ()):
            pending.append(found)
            progress(len(pending), plan.steps_per_epoch)
        totals: dict[str, np.ndarray] = {}
        for part in jax.device_get(pending):
            for name, value in part.items():
                own = np.array([value.total, value.weight], np.float64)
                totals[name] = totals.get(name, np.zeros(2)) + own
        rows = int(totals.pop('rows')[0])
        assert rows == len(plan.excerpts), f'{rows} rows of {len(plan.excerpts)} were counted'
        metrics = {name: float(s / max(w, 1e-9)) for name, (s, w) in totals.items()}
        masked = metrics['loss']
        metrics |= {'masked_loss': masked, 'perplexity': math.exp(masked)}
        metrics['loss'] = masked + metrics.get('next_sentence_loss', 0.0)
        return metrics

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
        """Fills every `[MASK]` of each record; see `tasks.filling`."""
        assert isinstance(prepared, PreparedDocuments)
        return fill_masks(
            runtime, prepared.tokenizer, records, batch, decoding.n_best, progress=progress
        )

    def next_tokens(
        self, runtime: Runtime, prepared: Prepared, records: Sequence[str], count: int
    ) -> list[NextTokens]:
        """The `count` most probable tokens at every `[MASK]` of each record."""
        assert isinstance(prepared, PreparedDocuments)
        return hidden_tokens(runtime, prepared.tokenizer, records, count)


def _judged(
    logits: jax.Array, targets: jax.Array, weight: jax.Array
) -> tuple[jax.Array, Sums, Sums]:
    """What is minimised, and the same and the accuracy in percent to be reported."""
    per_target: Any = smoothed_cross_entropy(logits, targets)
    total, count = jnp.sum(per_target[0] * weight), jnp.sum(weight)
    right = jnp.argmax(logits, axis=-1) == targets
    reported = Sums(jax.lax.stop_gradient(total), count)
    return total, reported, Sums(100 * jnp.sum(right * weight), count)


def _documents(prepared: Prepared, split: str) -> Documents:
    assert isinstance(prepared, PreparedDocuments)
    return prepared.splits[split]
