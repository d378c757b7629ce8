"""A continuation while it grows is the one that would come at the end."""

import itertools

import jax
import numpy as np
import pytest
from flax.core import meta

from seqzoo.data.vocabularies import Words
from seqzoo.errors import UserError
from seqzoo.models.gpt import GPTConfig
from seqzoo.parallel.mesh import MeshConfig, build_mesh, replicated
from seqzoo.tasks.base import Decoding, Runtime
from seqzoo.tasks.continuation import continue_prompts
from seqzoo.tasks.streaming import stream_prompts

PROMPTS = ['a', '', 'bad', 'cab a']  # one bucket


def gpt_runtime(vocab_size):
    model = GPTConfig(
        vocab_size=vocab_size, num_layers=1, embed_dim=8, num_heads=2, max_length=32
    ).build()
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), meta.unbox(shapes)
    )
    shardings = jax.tree.map(lambda _: replicated(mesh), variables)
    return Runtime(model, jax.device_put(variables, shardings), shardings, mesh)


@pytest.mark.parametrize(
    ('method', 'family', 'devices', 'vocabulary'),
    [('greedy', 'fading', 2, None), ('sample', 'gpt', 1, Words())],
)
def test_a_streamed_text_is_the_one_that_comes_at_the_end(
    fading, prepare, runtime_of, method, family, devices, vocabulary
):
    prepared = prepare(config=vocabulary) if vocabulary else prepare()
    tokenizer, size = prepared.tokenizer, prepared.vocab_size
    runtime = runtime_of(fading[0](vocab_size=size), devices)
    if family == 'gpt':
        runtime = gpt_runtime(size)
    decoding = Decoding(method=method, extra_length=9, stop_at_end=False, rows=4, seed=3)
    expected = continue_prompts(runtime, tokenizer, PROMPTS, decoding)
    seen = list(stream_prompts(runtime, tokenizer, PROMPTS, decoding, steps=4))
    for number, wanted in enumerate(expected):
        *growing, last = [grown for grown in seen if grown.record == number]
        assert last.text == wanted.text
        assert last.prediction is not None
        assert last.prediction.tokens == wanted.tokens
        assert last.prediction.log_prob == pytest.approx(wanted.log_prob, rel=1e-5)
        assert len(growing) == 2  # after 4 and 8 of 9 tokens
        texts = [grown.text for grown in growing] + [last.text]
        assert all(b.startswith(a) and a for a, b in itertools.pairwise(texts))
    (program,) = (p for name, p in runtime.programs.items() if name[0] == 'stream')
    assert program.advance._cache_size() == 1  # it compiled once


def test_a_search_that_compares_at_the_end_has_nothing_to_stream(fading, prepare, runtime_of):
    prepared = prepare()
    runtime = runtime_of(fading[0](vocab_size=prepared.vocab_size))
    for decoding in (Decoding(method='beam'), Decoding(method='sample', n_best=2)):
        with pytest.raises(UserError, match='only at the end'):
            next(stream_prompts(runtime, prepared.tokenizer, ['a'], decoding))
    assert list(stream_prompts(runtime, prepared.tokenizer, [], Decoding(method='greedy'))) == []
