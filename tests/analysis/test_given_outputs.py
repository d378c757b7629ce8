"""Scores and alignments of given outputs, against one pair at a time in NumPy."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax.core import meta

from seqzoo.analysis.alignment import align
from seqzoo.analysis.rescoring import score_given
from seqzoo.data.batching import BatchConfig
from seqzoo.data.tokenizers import TokenizerConfig, train_tokenizer_pair
from seqzoo.errors import UserError
from seqzoo.models.transformer import TransformerConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime

SOURCES = ['one two', 'three', 'two three one two three one', 'one']
TARGETS = ['eins zwei', 'drei drei drei', 'zwei', 'eins']


@pytest.fixture(scope='module')
def run() -> Any:
    return make_run()


@pytest.fixture(scope='module')
def limited() -> Any:
    """A model with 18 positions: more than a row of 16, fewer than one of 32."""
    return make_run(positions='learned', max_length=18)


def make_run(**positions: Any) -> Any:
    """What `load_run` gives, with a model that has learnt nothing."""
    config = TokenizerConfig(kind='char', vocab_size=24)
    tokenizers = train_tokenizer_pair(SOURCES, TARGETS, config)
    sizes = {'num_layers': 2, 'embed_dim': 16, 'mlp_dim': 16, 'num_heads': 2}
    model = TransformerConfig(vocab_size=tokenizers.target.vocab_size, **sizes, **positions).build()
    inputs = np.ones((1, 4), np.int32)
    params = meta.unbox(jax.jit(model.init)(jax.random.key(0), inputs, inputs))['params']
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    shardings = jax.tree.map(lambda _: replicated(mesh), {'params': params})
    return SimpleNamespace(
        params=params,
        runtime=Runtime(model, {'params': params}, shardings, mesh),
        prepared=SimpleNamespace(tokenizers=tokenizers),
        experiment=SimpleNamespace(
            batch=BatchConfig(tokens=64, max_length=32), decode=Decoding(length_penalty=0.6)
        ),
    )


def alone(run: Any, source: str, target: str) -> tuple[float, int]:
    """Log-probability and length of one pair, without padding."""
    pair, model = run.prepared.tokenizers, run.runtime.model
    source_ids = np.array([[*pair.source.encode(source), pair.source.eos_id]])
    target_ids = np.array([*pair.target.encode(target), pair.target.eos_id])
    read = np.array([[pair.target.bos_id, *target_ids[:-1]]])

    @jax.jit
    def forward(params: Any) -> jax.Array:
        def call(module: Any) -> jax.Array:
            return module.unembed(module(source_ids, read).features)

        return model.apply({'params': params}, method=call)

    logits = np.asarray(forward(run.params), np.float64)[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return float(log_probs[np.arange(len(target_ids)), target_ids].sum()), len(target_ids)


def test_given_outputs_have_the_log_probability_of_a_full_pass(run: Any) -> None:
    found = score_given(run, SOURCES, TARGETS)
    assert [prediction.text for prediction in found] == TARGETS
    for prediction, source, target in list(zip(found, SOURCES, TARGETS, strict=True))[1:3]:
        log_prob, length = alone(run, source, target)
        assert prediction.log_prob == pytest.approx(log_prob, abs=1e-4)
        assert prediction.score == pytest.approx(log_prob / ((5 + length) / 6) ** 0.6, abs=1e-4)


def test_an_output_that_would_have_to_be_cut_is_refused(run: Any) -> None:
    with pytest.raises(UserError, match=r'line 2 .* reads 128; .*raise batch\.evaluation_max'):
        score_given(run, ['one', 'two'], ['eins', 'zwei ' * 100])


def test_positions_that_a_model_lacks_cut_sources_and_refuse_targets(
    limited: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = ' '.join(SOURCES)
    cut = whole[:17]  # of letters one piece each; the last position is that of the end mark
    (found,) = score_given(limited, [whole], ['eins'])
    assert '1 sentences are longer than 18 tokens' in caplog.text
    (wanted,) = score_given(limited, [cut], ['eins'])
    assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-5)
    with pytest.raises(UserError, match=r'line 2 .* reads 18; shorten it$'):
        score_given(limited, ['one', 'one'], ['eins', 'e' * 18])


def test_alignments_end_where_the_positions_do(limited: Any) -> None:
    whole = ' '.join(SOURCES)
    (found,) = align(limited, [whole], ['e' * 30])
    (wanted,) = align(limited, [whole[:17]], ['e' * 17])
    assert len(found.source_tokens) == len(found.target_tokens) == 18
    assert found.source_tokens == wanted.source_tokens
    np.testing.assert_allclose(found.cross(), wanted.cross(), atol=1e-6)
    list(align(limited, SOURCES, TARGETS))


def test_alignments_are_over_as_much_of_a_source_as_was_translated(run: Any) -> None:
    (found,) = align(run, ['one ' * 100], ['eins'])
    assert len(found.source_tokens) == 128


def test_alignments_are_distributions_over_the_pieces_of_the_source(run: Any) -> None:
    pair = run.prepared.tokenizers
    for found, source, target in zip(align(run, SOURCES, TARGETS), SOURCES, TARGETS, strict=True):
        assert len(found.source_tokens) == len(pair.source.encode(source)) + 1
        assert len(found.target_tokens) == len(pair.target.encode(target)) + 1
        weights = found.cross()
        assert weights.shape == (len(found.target_tokens), len(found.source_tokens))
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        np.testing.assert_allclose(found.encoder_heads().sum(-1), 1, atol=1e-5)


def test_an_alignment_does_not_depend_on_its_neighbours(run: Any) -> None:
    together = list(align(run, SOURCES, TARGETS))
    for number, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        (single,) = align(run, [source], [target])
        np.testing.assert_allclose(single.cross(0), together[number].cross(0), atol=1e-5)
