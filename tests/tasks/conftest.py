"""A language model small enough to be computed by hand, on a text of a few letters."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from seqzoo.data.encoding import encode_text_cached
from seqzoo.data.vocabularies import Characters, build_vocabulary
from seqzoo.models.base import LMOutput, ModelConfig
from seqzoo.parallel.axes import named
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Runtime
from seqzoo.tasks.language_modeling import PreparedText

LINES = ['a bad cab', 'abba', '', 'cab a dab bac'] * 3
CHARACTERS = Characters()
DECAY = 0.5


@dataclass(frozen=True, kw_only=True)
class FadingConfig(ModelConfig):
    """Logits are a matrix times what was read, each token fading by half with every step."""

    vocab_size: int | None = None
    penalty: float = 0.0  # of an auxiliary loss: the mean square of the features

    def build(self):
        return Fading(self)

    @classmethod
    def tiny(cls):
        return cls(vocab_size=6)

    def example_inputs(self, batch=2, length=4):
        return (jnp.zeros((batch, length), jnp.int32),)


class Fading(nn.Module):
    """A `CausalLM` whose full pass is one matrix product, without a loop over time."""

    config: FadingConfig

    def setup(self):
        size = self.config.vocab_size
        init = named(nn.initializers.normal(1.0), 'embed', 'vocab')
        self.table = self.param('table', init, (size, size))

    def __call__(self, tokens, *, segments=None, positions=None, carry=(), train=False):
        size = self.config.vocab_size
        real = jnp.ones(tokens.shape) if segments is None else (segments > 0).astype(jnp.float32)
        time = jnp.cumsum(real, axis=1)
        gap = time[:, :, None] - time[:, None, :]  # [batch, later, earlier]
        share = jnp.where(jnp.tri(tokens.shape[1]) > 0, DECAY**gap, 0.0) * real[:, None, :]
        features = share @ jax.nn.one_hot(tokens, size)
        if jax.tree.leaves(carry):
            features += DECAY ** time[..., None] * carry['read'][:, None]
        losses = {}
        if self.config.penalty:
            squares = jnp.mean(jnp.square(features), axis=-1) * real
            losses['penalty'] = self.config.penalty * jnp.sum(squares) / jnp.sum(real)
        return LMOutput(features, {'read': features[:, -1]}, losses)

    def unembed(self, features):
        return features @ self.table

    def initial_carry(self, batch):
        return {'read': jnp.zeros((batch, self.config.vocab_size))}

    def init_cache(self, batch, max_length):
        return self.initial_carry(batch)

    def extend(self, tokens, lengths, cache):
        segments = (jnp.arange(tokens.shape[1]) < lengths[:, None]).astype(jnp.int32)
        output = self(tokens, segments=segments, carry=cache)
        return self.unembed(output.features), output.carry


def by_hand(table: Any, ids: Any, read: Any = 0.0) -> np.ndarray:
    """`[length, vocab]` log-probabilities of what follows each of `ids`."""
    rows = []
    for token in ids:
        read = DECAY * read + np.eye(len(table))[token]
        logits = read @ np.asarray(table, np.float64)
        rows.append(logits - np.log(np.exp(logits).sum()))
    return np.array(rows)


@pytest.fixture
def fading():
    """What tests of the model need: its configuration, and the same by hand."""
    return FadingConfig, by_hand


@pytest.fixture
def prepare(tmp_path):
    """Prepares lines for a task, with the vocabulary of `LINES`."""

    def made(lines=LINES, config=CHARACTERS):
        vocabulary = build_vocabulary(LINES, config)
        store = encode_text_cached(lines, vocabulary, tmp_path)
        splits = dict.fromkeys(('train', 'dev'), store)
        return PreparedText(vocabulary, splits, dict.fromkeys(splits, lines))

    return made


@pytest.fixture
def runtime_of():
    """A model with drawn parameters on some devices."""

    def made(config, devices=1):
        mesh, model = build_mesh(MeshConfig(), jax.devices()[:devices]), config.build()
        size = config.vocab_size
        table = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
        variables = {'params': {'table': jnp.asarray(table)}}
        shardings = jax.tree.map(lambda _: replicated(mesh), variables)
        return Runtime(model, jax.device_put(variables, shardings), shardings, mesh)

    return made
