"""Captioning: an image in, a sentence out; the same search as translation, judged by exact match.

Sentences are words between spaces; the ids of the marks are those of the tokenizers (0 padding, 1
unknown, 2 begin, 3 end). A record to predict is the name of an image file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.batching import ArraySpec, BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.data.digit_scenes import SIZE, DigitScenes, Scenes
from seqzoo.data.tokenizer_training import BEGIN, END, PAD, UNKNOWN
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.scoring.bleu import bleu
from seqzoo.scoring.exact_match import exact_match
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums
from seqzoo.tasks.column_task import Answers, ColumnTask, PreparedColumns, pass_over
from seqzoo.tasks.hypotheses import best_of
from seqzoo.tasks.open_sizes import fill_open
from seqzoo.tasks.sequence_search import SpecialTokens, seq2seq_search
from seqzoo.tasks.translation import forced_logits

_MARKS = ('<pad>', '<unk>', '<s>', '</s>')
_LONGEST = 15  # words, where nobody says
assert (PAD, UNKNOWN, BEGIN, END) == (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Captioning(ColumnTask):
    """Says what is on an image.

    Attributes:
        corpus: images with their captions.
    """

    corpus: DigitScenes = field(default_factory=DigitScenes)

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'loss', 'min'

    # Data

    def read(self, split: str, data_dir: Path | None) -> Scenes:
        return self.corpus.read(split, data_dir)

    def learn(self, examples: Scenes) -> dict[str, Any]:
        words = {word for caption in examples.captions for word in caption.split()}
        return {'words': [*_MARKS, *sorted(words)], 'image_size': int(examples.images.shape[1])}

    def encode(self, examples: Scenes, learnt: Mapping[str, Any]) -> Columns:
        number = {word: i for i, word in enumerate(learnt['words'])}
        captions = [
            [*(number.get(word, UNKNOWN) for word in caption.split()), END]
            for caption in examples.captions
        ]
        return Columns({'image': Fixed(examples.images), 'caption': Ragged.of(captions)})

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        images = Fixed(np.zeros((len(lengths), SIZE, SIZE), np.uint8))
        return Columns({'image': images, 'caption': Ragged.blank(lengths)})

    def nominal_search(
        self, model: nn.Module, config: ModelConfig, batch: BatchConfig, decoding: Decoding
    ) -> tuple[Callable[[Any, Batch], Any], Mapping[str, ArraySpec]]:
        rows, size = decoding.rows, config.image_size  # type: ignore[attr-defined]
        vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        specs = {
            'image': ArraySpec((rows, size, size), 'uint8'),
            'segments': ArraySpec((rows, 2)),
            'rows': ArraySpec((rows,)),
        }
        return _captions(model, decoding, vocab_size), specs

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedColumns)
        learnt = prepared.learnt
        return self._filled(model, len(learnt['words']), learnt['image_size'])

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        return self._filled(model, len(_MARKS) + 15, SIZE)  # ten digits, a, an, above, left, of

    def _filled(self, model: ModelConfig, words: int, size: int) -> ModelConfig:
        return fill_open(model, {'vocab_size': words, 'image_size': size}, because='the data')

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(batch['segments']).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        logits = forced_logits(model, variables, _pair(batch), key, begin_id=BEGIN)
        per_token: Any = smoothed_cross_entropy(logits, batch['caption'])
        nll = per_token[0]
        mask = batch['segments'].astype(jnp.float32)
        total, weight = jnp.sum(nll * mask), jnp.sum(mask)
        sums = Sums(jax.lax.stop_gradient(total), weight)
        return Losses({'loss': total}, {'loss': sums}), carry

    # Evaluation and prediction

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        logits = forced_logits(model, variables, _pair(batch), begin_id=BEGIN)
        per_token: Any = smoothed_cross_entropy(logits, batch['caption'])
        return Answers(positions={'nll': per_token[1]})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        del table, learnt
        return {'loss': float(answers.columns['nll'].values.mean(dtype=np.float64))}

    def evaluate(
        self,
        runtime: Runtime,
        prepared: Prepared,
        split: str,
        batch: BatchConfig,
        decoding: Decoding | None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        assert isinstance(prepared, PreparedColumns)
        metrics = super().evaluate(runtime, prepared, split, batch, None)
        if decoding is None:
            return metrics
        table, words = prepared.splits[split], prepared.learnt['words']
        images, references = table.columns['image'], table.columns['caption']
        assert isinstance(references, Ragged)
        found = self.caption(runtime, prepared, images.values, decoding, progress)
        wanted = [_text(references[i], words) for i in range(len(table))]
        captions = [prediction.text for prediction in found]
        score = bleu(captions, wanted, tokenize='none')
        exact = exact_match(captions, wanted).value
        return {**metrics, 'exact_match': exact, 'bleu': score.value, 'signature': score.signature}

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
        del batch
        assert isinstance(prepared, PreparedColumns)
        found = [Prediction('')] * len(records)
        named = [i for i, record in enumerate(records) if record.strip()]
        if not named:
            return found
        size = prepared.learnt['image_size']
        images = np.stack([read_image(Path(records[i].strip()), size) for i in named])
        predictions = self.caption(runtime, prepared, images, decoding, progress)
        for i, prediction in zip(named, predictions, strict=True):
            found[i] = prediction
        return found

    def caption(
        self,
        runtime: Runtime,
        prepared: Prepared,
        images: np.ndarray,
        decoding: Decoding | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Prediction]:
        """What is on images `[images, height, width]` uint8; by default searched for greedily."""
        assert isinstance(prepared, PreparedColumns)
        words: list[str] = prepared.learnt['words']
        decoding = decoding or Decoding(method='greedy', extra_length=_LONGEST)
        captions = _captions(runtime.model, decoding, len(words))
        rows = BatchConfig(tokens=max(2, decoding.rows), max_length=2, buckets=(2,))
        table = Columns({'image': Fixed(images)})
        name = ('captions', decoding)
        columns = pass_over(runtime, table, rows, name, captions, progress).columns
        values = {key: column.values for key, column in columns.items()}
        return [
            _prediction({key: v[i] for key, v in values.items()}, words, decoding.n_best)
            for i in range(len(images))
        ]


def _captions(model: nn.Module, decoding: Decoding, words: int) -> Callable[[Any, Batch], Answers]:
    """Searches for the captions of a batch of images, out of so many words."""
    special = SpecialTokens(BEGIN, END, PAD, words)
    search = seq2seq_search(model, decoding, special, source_length=1)

    def captions(variables: Any, batch: Batch) -> Answers:
        pair = {
            'source': _ink(batch['image']),
            'source_segments': batch['segments'],
            'rows': batch['rows'],
        }
        decoded = search(variables, pair)
        kept = ('tokens', 'lengths', 'scores', 'log_probs')
        return Answers(examples={name: getattr(decoded, name) for name in kept})

    return captions


def read_image(path: Path, size: int) -> np.ndarray:
    """A grey image file as `[size, size]` uint8, 255 being ink; of a colour image the mean.

    Raises:
        UserError: it is not an image, or not of that size.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.size != (size, size):
                raise UserError(
                    f'{path} has {image.size[0]} by {image.size[1]} pixels; the model reads '
                    f'{size} by {size}, light on dark'
                )
            if image.mode not in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA'):
                raise UserError(f'{path} has no 8 bits a pixel (mode {image.mode}); convert it.')
            return np.asarray(image.convert('L'))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f'{path} cannot be read as an image ({error}).') from error


def _ink(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255


def _pair(batch: Batch) -> Batch:
    """The batch as a model with a source and a target reads it."""
    segments = batch['segments']
    places = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    return {
        'source': _ink(batch['image']),
        'source_segments': None,
        'source_positions': None,
        'target': batch['caption'],
        'target_segments': segments,
        'target_positions': places,
    }


def _text(ids: np.ndarray, words: list[str]) -> str:
    return ' '.join(words[i] for i in ids.tolist() if i not in (PAD, BEGIN, END))


def _prediction(found: Mapping[str, np.ndarray], words: list[str], n_best: int) -> Prediction:
    """The hypotheses of one image, the best one holding the others."""

    def one(rank: int) -> Prediction:
        ids = found['tokens'][rank, : found['lengths'][rank]]
        text = _text(ids, words)
        return Prediction(
            text,
            score=float(found['scores'][rank]),
            log_prob=float(found['log_probs'][rank]),
            tokens=tuple(text.split()),
        )

    return best_of(found['scores'], found['lengths'], n_best, one)
