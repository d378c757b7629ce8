"""Translation: parallel text in, label-smoothed cross-entropy to train, BLEU to judge."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.configuration.checks import check_rates
from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.bucketing import EvaluationPlan
from seqzoo.data.corpora import Corpus, TextFiles
from seqzoo.data.encoding import encode_cached, load_tokenizers, save_tokenizers
from seqzoo.data.inspection import describe_batch
from seqzoo.data.marian_tokenizer import MarianPieces
from seqzoo.data.pipeline import (
    PairStores,
    batch_specs,
    evaluation_batches,
    make_plan,
    training_batches,
)
from seqzoo.data.text_files import ParallelText
from seqzoo.data.token_store import TokenStore
from seqzoo.data.tokenizer_training import END, PAD
from seqzoo.data.tokenizers import (
    PieceTokenizer,
    TokenizerConfig,
    TokenizerPair,
    train_tokenizer_pair,
)
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.parallel.mesh import row_shards
from seqzoo.parallel.rows import row_share
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums, Task
from seqzoo.tasks.sequence_search import SpecialTokens, seq2seq_search
from seqzoo.tasks.translate import translate, within_positions

# Of a sentence of news and its end mark, on either side, in pieces and in characters.
_SENTENCE, _LETTERS = 32, 160


@dataclass(frozen=True)
class PreparedTranslation(Prepared):
    """Parallel text as token ids.

    Attributes:
        tokenizers: of both sides.
        splits: encoded splits by name.
        texts: the text of the splits, for references.
    """

    tokenizers: TokenizerPair
    splits: dict[str, PairStores]
    texts: dict[str, ParallelText]

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """Of the target side."""
        return self.tokenizers.target.vocab_size

    @property
    def identity(self) -> dict[str, str]:
        found = {'tokenizer': self.tokenizers.fingerprint}
        if 'train' in self.splits:
            sides = [self.splits['train'].source, self.splits['train'].target]
            found['training data'] = '-'.join(side.fingerprint[:16] for side in sides)
        return found

    def save(self, run_dir: Path) -> None:
        save_tokenizers(self.tokenizers, run_dir)

    def describe_batch(self, batch: Mapping[str, np.ndarray], rows: int) -> str:
        """Text, lengths, segments and ids."""
        pair = self.tokenizers
        return describe_batch(dict(batch), pair.source, pair.target, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Translation(Task):
    """Translates one language into another.

    Attributes:
        corpus: where the text comes from.
        source_language, target_language: as in the names of its files or columns.
        tokenizer: pieces of both sides; those that came with imported weights are never trained.
        label_smoothing: of the training loss; reported losses are plain nats per target token, the
            end included.
        bleu_tokenizer: of sacreBLEU; `'char'` where a sentence may be a single word.
    """

    corpus: Corpus = field(default_factory=TextFiles)
    source_language: str = 'en'
    target_language: str = 'de'
    tokenizer: TokenizerConfig | MarianPieces = field(default_factory=TokenizerConfig)
    label_smoothing: float = 0.1
    bleu_tokenizer: Literal['13a', 'intl', 'char', 'zh', 'ja-mecab', 'ko-mecab', 'none'] = '13a'

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rates(self, 'label_smoothing')

    @property
    def data_name(self) -> str:
        return f'{self.corpus.name} {self.source_language}-{self.target_language}'

    @property
    def nominal_vocab_size(self) -> int | None:
        return self.tokenizer.vocab_size

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        self._refuse_shared_table(model)
        model = super().nominal_model(model)
        if getattr(model, 'source_vocab_size', 0) is None and self.tokenizer.source_vocab_size:
            return replace(model, source_vocab_size=self.tokenizer.source_vocab_size)  # type: ignore[call-arg]
        return model

    def _refuse_shared_table(self, model: ModelConfig) -> None:
        if not self.tokenizer.joint and getattr(model, 'tie', None) == 'all':
            raise UserError(
                "model.tie 'all' shares one table between two vocabularies "
                '(task.tokenizer.joint is False); set --model.tie decoder.'
            )

    def nominal_length(self, batch: BatchConfig) -> int:
        return min(batch.max_length, _LETTERS if self.tokenizer.kind == 'char' else _SENTENCE)

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
    ) -> PreparedTranslation:
        texts = {
            split: self.corpus.pairs(split, self.source_language, self.target_language, data_dir)
            for split in splits
        }
        if run_dir is not None:
            tokenizers = load_tokenizers(run_dir)
        elif isinstance(self.tokenizer, MarianPieces):
            raise UserError(
                'the pieces of this task came with imported weights and cannot be learnt from '
                'text; begin with the run that holds them, --fork-from R.'
            )
        elif 'train' in texts:
            tokenizers = train_tokenizer_pair(
                texts['train'].source,
                texts['train'].target,
                self.tokenizer,
                source_language=self.source_language,
                target_language=self.target_language,
                cache_dir=cache_dir / 'tokenizers',
            )
        else:
            raise ValueError('a tokenizer is learnt from the training split or loaded from a run')
        encoded = {}
        for split, text in texts.items():
            announce(_describe(split, text))
            encoded[split] = encode_cached(text, tokenizers, cache_dir, announce=announce)
        announce(
            f'vocabulary: {tokenizers.target.vocab_size:,} pieces ({self.tokenizer.kind})'
            f'{_sampled(tokenizers.target)}'
        )
        return PreparedTranslation(tokenizers, encoded, texts)

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedTranslation)
        size = prepared.tokenizers.target.vocab_size
        stated = getattr(model, 'vocab_size', None)
        if stated is not None and stated != size:
            raise UserError(
                f'model.vocab_size is {stated}, but the tokenizer has {size} pieces; '
                'leave model.vocab_size out.'
            )
        self._refuse_shared_table(model)
        changes: dict[str, Any] = {'vocab_size': size}
        if not self.tokenizer.joint:
            changes['source_vocab_size'] = prepared.tokenizers.source.vocab_size
        return replace(model, **changes)

    def plan(self, prepared: Prepared, batch: BatchConfig, seed: int) -> Any:
        source, target = _stores(prepared, 'train')
        return make_plan(source.lengths, target.lengths, batch, seed=seed)

    def nominal_plan(self, batch: BatchConfig) -> Any:
        lengths = np.arange(1, batch.max_length)
        return make_plan(lengths, lengths, batch)

    def nominal_search(
        self, model: nn.Module, config: ModelConfig, batch: BatchConfig, decoding: Decoding
    ) -> tuple[Callable[[Any, Batch], Any], Mapping[str, ArraySpec]]:
        vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        special = SpecialTokens(self.tokenizer.begin_id, END, PAD, vocab_size)
        wide = ArraySpec((decoding.rows, batch.max_length))
        specs = {'source': wide, 'source_segments': wide, 'rows': ArraySpec((decoding.rows,))}
        return seq2seq_search(model, decoding, special, batch.max_length), specs

    def batches(
        self,
        prepared: Prepared,
        plan: Any,
        *,
        start_step: int,
        row_multiple: int,
        process_index: int,
        process_count: int,
    ) -> Iterator[Any]:
        source, target = _stores(prepared, 'train')
        return training_batches(
            source,
            target,
            plan,
            end_ids=_tokenizers(prepared).end_ids,
            start_step=start_step,
            process_index=process_index,
            process_count=process_count,
            row_multiple=row_multiple,
        )

    def batch_specs(
        self, plan: Any, *, row_multiple: int, process_count: int
    ) -> Sequence[Mapping[str, ArraySpec]]:
        return batch_specs(plan, row_multiple=row_multiple, process_count=process_count)

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(batch['target_segments'] > 0).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        logits = forced_logits(model, variables, batch, key, begin_id=self.tokenizer.begin_id)
        per_token: Any = smoothed_cross_entropy(logits, batch['target'], self.label_smoothing)
        loss, nll = per_token
        mask = (batch['target_segments'] > 0).astype(jnp.float32)
        weight = jnp.sum(mask)
        total = jnp.sum(loss * mask)
        metrics = {
            'loss': Sums(jax.lax.stop_gradient(total), weight),
            'nll': Sums(jnp.sum(nll * mask), weight),
        }
        return Losses({'loss': total}, metrics), carry

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
        assert isinstance(prepared, PreparedTranslation)
        metrics: dict[str, Any] = {'loss': self._mean_nll(runtime, prepared, split, batch)}
        if decoding is None:
            return metrics
        text = prepared.texts[split]
        found = self.predict(
            runtime, prepared, list(text.source), batch, decoding, progress=progress
        )
        return {
            **metrics,
            **self.score([p.text for p in found], list(text.target), prepared.tokenizers.target),
        }

    def score(
        self, hypotheses: list[str], references: list[str], tokenizer: PieceTokenizer | None = None
    ) -> dict[str, Any]:
        """BLEU, chrF and exact match of detokenised text, with the scorer's signature.

        With Moses preprocessing also the BLEU of tokenised lower-cased text, which papers on such
        data quote; that one needs the target side's `tokenizer`.
        """
        from seqzoo.scoring.bleu import bleu, tokenized_bleu
        from seqzoo.scoring.chrf import chrf
        from seqzoo.scoring.exact_match import exact_match

        cased = bleu(hypotheses, references, tokenize=self.bleu_tokenizer)
        scores: dict[str, Any] = {
            'bleu': cased.value,
            'bleu_lowercase': bleu(
                hypotheses, references, lowercase=True, tokenize=self.bleu_tokenizer
            ).value,
            'chrf': chrf(hypotheses, references).value,
            'exact_match': exact_match(hypotheses, references).value,
            'signature': cased.signature,
        }
        if tokenizer is not None and self.tokenizer.moses:
            sides = [[tokenizer.preprocess(x) for x in lines] for lines in (hypotheses, references)]
            # Papers lower-case every alphabet before they score; multi-bleu's -lc knows A to Z.
            lower = [[line.lower() for line in lines] for lines in sides]
            scores['bleu_tokenized_lowercase'] = tokenized_bleu(*lower).value
        return scores

    def _mean_nll(
        self, runtime: Runtime, prepared: PreparedTranslation, split: str, batch: BatchConfig
    ) -> float:
        def nll(variables: Any, batch: Batch) -> Sums:
            losses, _ = self.loss(runtime.model, variables, batch, (), key=None)
            return losses.metrics['nll']

        total = weight = 0.0
        source, target = _stores(prepared, split)
        batch = within_positions(batch, runtime.model)
        plan = EvaluationPlan(source.lengths, target.lengths, batch)
        share = row_share(runtime.mesh)
        batches = evaluation_batches(
            source,
            target,
            plan,
            end_ids=prepared.tokenizers.end_ids,
            process_index=share.index,
            process_count=share.count,
            row_multiple=row_shards(runtime.mesh),
        )
        pending = [runtime.run('nll', nll, b.arrays) for b in batches]
        for sums in jax.device_get(pending):
            total, weight = total + float(sums.total), weight + float(sums.weight)
        return total / max(weight, 1.0)

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
        assert isinstance(prepared, PreparedTranslation)
        return translate(
            runtime,
            prepared.tokenizers,
            records,
            batch,
            decoding,
            progress=progress,
        )


def forced_logits(
    model: nn.Module,
    variables: Any,
    batch: Batch,
    key: jax.Array | None = None,
    *,
    begin_id: int,
) -> jax.Array:
    """`[rows, length, vocab]`: what the model expects at each place of the given targets.

    Args:
        model: a `models.base.Seq2Seq`.
        variables: its collections.
        batch: a batch of the pipeline, targets not shifted.
        key: of dropout; `None` leaves it off.
        begin_id: what the decoder reads first.
    """

    def forward(module: Any) -> jax.Array:
        output = module(
            batch['source'],
            shift_right(batch['target'], batch['target_positions'], begin_id),
            source_segments=batch['source_segments'],
            target_segments=batch['target_segments'],
            source_positions=batch['source_positions'],
            target_positions=batch['target_positions'],
            train=key is not None,
        )
        return module.unembed(output.features)

    rngs = {} if key is None else {'dropout': key}
    logits: Any = model.apply(variables, method=forward, rngs=rngs)
    return logits


def shift_right(target: jax.Array, positions: jax.Array, bos: int) -> jax.Array:
    """What the decoder reads: every token one place later, BOS at the start of each segment.

    Args:
        target: `[batch, length]` int32, each segment closed by EOS.
        positions: `[batch, length]` int32, 0 at the start of each segment.
        bos: id of the begin mark.
    """
    shifted = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(positions == 0, bos, shifted)


def _tokenizers(prepared: Prepared) -> TokenizerPair:
    assert isinstance(prepared, PreparedTranslation)
    return prepared.tokenizers


def _stores(prepared: Prepared, split: str) -> tuple[TokenStore, TokenStore]:
    assert isinstance(prepared, PreparedTranslation)
    pairs = prepared.splits[split]
    return pairs.source, pairs.target


def _sampled(tokenizer: Any) -> str:
    """From which part of the text a tokenizer has learnt, where that is not all."""
    lines, of = getattr(tokenizer, 'learnt_from', None) or (0, 0)
    if lines >= of:
        return ''
    return f', learnt from {lines:,} of {of:,} lines, drawn evenly (a paper means all of them)'


def _describe(split: str, text: ParallelText) -> str:
    blank = f', {text.blank:,} with an empty side' if text.blank else ''
    return f'{split}: {len(text):,} pairs{blank}'
