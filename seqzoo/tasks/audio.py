"""Sound, sample by sample: the probability of each next level to train, new sounds to predict.

    loss             mean over the samples of -log p(x_t | x_1 ... x_{t-1}, class), in nats
    bits_per_sample  loss / ln 2
    baseline         the same for the frequencies of the levels in the training data, without a past

A sound begins after one sample of silence. A record to predict is the name of a class, and behind
it, if one likes, how many seconds are wanted (`rising 0.5`); a network without classes is asked for
`-`. The prediction holds the levels; `sound_of` makes samples of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.audio import AudioCorpus, Clips, Tones, levels_of, samples_of, silence
from seqzoo.data.batching import BatchConfig
from seqzoo.data.columns import Columns, Fixed, Ragged
from seqzoo.errors import UserError
from seqzoo.models.base import ModelConfig
from seqzoo.models.wavenet import Condition, WaveNetConfig
from seqzoo.optimization.losses import smoothed_cross_entropy
from seqzoo.tasks.base import Batch, Decoding, Losses, Prediction, Prepared, Runtime, Sums
from seqzoo.tasks.column_task import Answers, ColumnTask, PreparedColumns, pass_over
from seqzoo.tasks.open_sizes import fill_open
from seqzoo.tasks.sequence_search import causal_search

ANY_CLASS = '-'
LONGEST = 3600  # seconds of a sound; who asks for more has slipped, and would fill the memory


@dataclass(frozen=True)
class Wanted:
    """One sound that is asked for.

    Attributes:
        label: number of its class.
        name: of the class.
        length: samples.
    """

    label: int
    name: str
    length: int


@dataclass(frozen=True, kw_only=True)
class AudioModeling(ColumnTask):
    """The probability of sound.

    Attributes:
        corpus: where it comes from.
        levels: of a sample.
    """

    corpus: AudioCorpus = field(default_factory=Tones)
    levels: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.levels <= 65_536:
            raise UserError(f'task.levels is {self.levels}; choose 2 to 65536, 256 is usual.')

    @property
    def data_name(self) -> str:
        return self.corpus.name

    @property
    def best_metric(self) -> tuple[str, str]:
        return 'loss', 'min'

    # Data

    def read(self, split: str, data_dir: Path | None) -> Clips:
        return self.corpus.read(split, data_dir)

    def learn(self, examples: Clips) -> dict[str, Any]:
        """Classes, sampling rate, and how often each level occurs, none being impossible."""
        counts = np.ones(self.levels)
        for samples in examples.samples:
            counts += np.bincount(levels_of(samples, self.levels), minlength=self.levels)
        nats = (-np.log(counts / counts.sum())).round(6).tolist()
        return {'classes': list(examples.classes), 'rate': self.corpus.rate, 'level_nats': nats}

    def encode(self, examples: Clips, learnt: Mapping[str, Any]) -> Columns:
        known = {name: number for number, name in enumerate(learnt['classes'])}
        if strange := sorted(set(examples.classes) - known.keys()):
            raise UserError(f'{self.data_name}: no training clip is of the class {strange[0]!r}.')
        numbers = np.array([known[name] for name in examples.classes], np.int32)
        levels = [levels_of(samples, self.levels) for samples in examples.samples]
        return Columns({'levels': Ragged.of(levels), 'label': Fixed(numbers[examples.labels])})

    def nominal_table(self, lengths: Sequence[int]) -> Columns:
        labels = Fixed(np.zeros(len(lengths), np.int32))
        return Columns({'levels': Ragged.blank(lengths), 'label': labels})

    def resolve(self, model: ModelConfig, prepared: Prepared) -> ModelConfig:
        assert isinstance(prepared, PreparedColumns)
        return self._filled(model, len(prepared.learnt['classes']))

    def nominal_model(self, model: ModelConfig) -> ModelConfig:
        return self._filled(model, getattr(model, 'num_classes', 0) or self.corpus.nominal_classes)

    def _filled(self, model: ModelConfig, classes: int) -> ModelConfig:
        if not isinstance(model, WaveNetConfig) or model.local_dim is not None:
            raise UserError(
                'sounds with a class are for a WaveNet without local conditions; take a '
                'WaveNetConfig with local_dim None.'
            )
        sizes = {'vocab_size': self.levels}
        if model.class_dim is not None:
            sizes['num_classes'] = classes
        return fill_open(model, sizes, because='the data')

    # Loss

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Samples."""
        return {'loss': jnp.sum(batch['segments'] > 0).astype(jnp.float32)}

    def loss(
        self, model: nn.Module, variables: Any, batch: Batch, carry: Any, *, key: jax.Array | None
    ) -> tuple[Losses, Any]:
        nll = self._nats(model, variables, batch, key)
        real = (batch['segments'] > 0).astype(jnp.float32)
        total = jnp.sum(nll * real)
        sums = Sums(jax.lax.stop_gradient(total), jnp.sum(real))
        return Losses({'loss': total}, {'loss': sums}), carry

    def _nats(
        self, model: nn.Module, variables: Any, batch: Batch, key: jax.Array | None
    ) -> jax.Array:
        """`[rows, length]`: -log p of each sample."""
        levels = batch['levels']
        before = jnp.full_like(levels[:, :1], silence(self.levels))
        read = jnp.concatenate([before, levels[:, :-1]], axis=1)

        def forward(module: Any) -> jax.Array:
            output = module(
                read,
                segments=batch['segments'] > 0,  # a row is one sound
                condition=_condition(module, batch),
                train=key is not None,
            )
            return module.unembed(output.features)

        rngs = {} if key is None else {'dropout': key}
        logits: Any = model.apply(variables, method=forward, rngs=rngs)
        per_sample: Any = smoothed_cross_entropy(logits, levels)
        return per_sample[0]

    # Evaluation and prediction

    def answers(self, model: nn.Module, variables: Any, batch: Batch) -> Answers:
        return Answers(positions={'nll': self._nats(model, variables, batch, None)})

    def measure(
        self, table: Columns, answers: Columns, learnt: Mapping[str, Any]
    ) -> dict[str, Any]:
        loss = float(answers.columns['nll'].values.mean(dtype=np.float64))
        frequencies = np.array(learnt['level_nats'])[table.columns['levels'].values]
        return {
            'loss': loss,
            'bits_per_sample': loss / math.log(2),
            'baseline': float(frequencies.mean()),
        }

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
        """A sound for each record; blank ones get a blank answer."""
        del batch
        assert isinstance(prepared, PreparedColumns)
        found = [Prediction('')] * len(records)
        wanted = {
            i: self._wanted(record, runtime.model, prepared.learnt, decoding)
            for i, record in enumerate(records)
            if record.strip()
        }
        if not wanted:
            return found
        sounds = self._generate(runtime, list(wanted.values()), decoding, progress)
        rate = prepared.learnt['rate']
        for (i, own), several in zip(wanted.items(), sounds, strict=True):
            best, *others = [_prediction(own, levels, score, rate) for levels, score in several]
            found[i] = replace(best, alternatives=tuple(others))
        return found

    def _wanted(
        self, record: str, model: Any, learnt: Mapping[str, Any], decoding: Decoding
    ) -> Wanted:
        """What a record asks for."""
        classes: list[str] = learnt['classes']
        text = record.strip()
        # Folders, and so classes, may be called by several words.
        fitting = [name for name in classes if f'{text} '.startswith(f'{name} ')]
        first = max(fitting, key=len, default=text.partition(' ')[0])
        if model.config.class_dim is not None and not fitting:
            raise UserError(
                f'the record {text!r} names no class; begin with one of {", ".join(classes)}.'
            )
        name = ANY_CLASS if model.config.class_dim is None else first
        length = decoding.extra_length
        if rest := text.removeprefix(first).strip():
            try:
                length = round(float(rest) * learnt['rate'])
            except (ValueError, OverflowError):
                length = 0
            if not 1 <= length <= LONGEST * learnt['rate']:
                raise UserError(
                    f'the record {text!r} does not say how long; give seconds behind the class, '
                    f'as in "rising 0.5", {LONGEST:,} at most.'
                )
        return Wanted(classes.index(name) if name in classes else 0, name, length)

    def _generate(
        self,
        runtime: Runtime,
        wanted: Sequence[Wanted],
        decoding: Decoding,
        progress: Callable[[int, int], None],
    ) -> list[list[tuple[np.ndarray, float]]]:
        """Levels of each sound with their log-probability, or of several, best first."""
        most = max(own.length for own in wanted)
        decoding = replace(decoding, extra_length=most, stop_at_end=False)
        search = causal_search(
            runtime.model,
            decoding,
            self.levels,
            stop=None,
            condition=lambda batch: _condition(runtime.model, batch),
        )

        def sounds(variables: Any, batch: Batch) -> Answers:
            decoded = search(variables, batch)
            kept = ('tokens', 'log_probs')
            return Answers(examples={name: getattr(decoded, name) for name in kept})

        # The one sample that all begin after.
        before = np.full((len(wanted), 1), silence(self.levels), np.int32)
        labels = np.array([own.label for own in wanted], np.int32)
        table = Columns({'tokens': Ragged.of(list(before)), 'label': Fixed(labels)})
        rows = BatchConfig(tokens=max(2, decoding.rows), max_length=2, buckets=(2,))
        columns = pass_over(runtime, table, rows, ('sounds', decoding), sounds, progress).columns
        found = []
        for i, own in enumerate(wanted):
            scores = columns['log_probs'].values[i]
            order = np.argsort(-scores, kind='stable')[: decoding.n_best]
            levels = columns['tokens'].values[i]
            found.append([(levels[k, : own.length], float(scores[k])) for k in order])
        return found


def sound_of(prediction: Prediction, levels: int = 256) -> np.ndarray:
    """Float32 samples from -1 to 1 of what `AudioModeling.predict` gave; none of a blank one."""
    return samples_of(np.array(prediction.details.get('levels', []), np.int32), levels)


def _condition(model: Any, batch: Batch) -> Condition | None:
    """What the model needs to know beside the samples."""
    return None if model.config.class_dim is None else Condition(classes=batch['label'])


def _prediction(own: Wanted, levels: np.ndarray, score: float, rate: int) -> Prediction:
    seconds = len(levels) / rate
    return Prediction(
        f'{own.name} {seconds:g} s',
        score=score,
        log_prob=score,
        details={'class': own.name, 'rate': rate, 'levels': levels.tolist()},
    )
