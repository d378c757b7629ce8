"""Captioners: the convolutions by NumPy, both ways of reading an image, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from seqzoo.errors import ConfigError
from seqzoo.layers.convolution import Convolution
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.captioner import CaptionerConfig

TELL = CaptionerConfig(
    vocab_size=16,
    image_size=6,
    channels=(4,),
    strides=(2,),
    embed_dim=8,
    cell=LSTM(hidden_dim=8),
    num_layers=2,
    attention='none',
)


def convolved(x, kernel, bias, stride):
    """By definition; `x`: [height, width, channels]."""
    height, width = (-(-size // stride) for size in x.shape[:2])
    # SAME: as many zeros as needed, the odd one behind.
    needed = [
        max((out - 1) * stride + 3 - size, 0)
        for out, size in zip((height, width), x.shape[:2], strict=True)
    ]
    padded = np.pad(x, [(n // 2, n - n // 2) for n in needed] + [(0, 0)])
    result = np.zeros((height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            part = padded[row * stride : row * stride + 3, column * stride : column * stride + 3]
            result[row, column] = np.einsum('yxi,yxio->o', part, kernel) + bias
    return result


@pytest.mark.parametrize(('size', 'stride'), [(6, 1), (6, 2), (7, 2)])
def test_a_convolution_is_the_sum_over_its_window(size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, size, size, 2)).astype(np.float32)
    module = Convolution(3, (3, 3), stride, jnp.dtype('float32'))
    params = meta.unbox(module.init(jax.random.key(0), x))['params']
    params['bias'] = rng.normal(size=3).astype(np.float32)
    expected = convolved(x[0], params['kernel'], params['bias'], stride)
    np.testing.assert_allclose(module.apply({'params': params}, x)[0], expected, atol=1e-5)


def test_without_attention_the_image_is_the_first_word():
    model, (images, words) = TELL.build(), TELL.example_inputs(2, 5)
    variables = meta.unbox(jax.jit(model.init)(jax.random.key(0), images, words))

    def by_hand(module):
        seen = module.look(module._annotations(images).reshape(2, -1))[:, None]
        x = jnp.concatenate([seen, module.word_embedding(words)], axis=1)
        return module.unembed(module.decoder.stack(x).features[:, 1:])

    @jax.jit
    def step_by_step(variables):
        memory = model.apply(variables, images, method='encode')
        cache, found = model.apply(variables, memory, 5, method='init_cache'), []
        for t in range(5):
            logits, cache = model.apply(
                variables, words[:, t : t + 1], memory, cache, method='extend'
            )
            found.append(logits)
        return jnp.concatenate(found, axis=1)

    expected = model.apply(variables, method=by_hand)
    features = model.apply(variables, images, words).features
    logits = model.apply(variables, features, method='unembed')
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(step_by_step(variables), expected, atol=1e-5)
    other = model.apply(variables, images + 1.0, words).features
    assert np.abs(other - features).max() > 1e-3


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'strides': (2,)}, 'one for each convolution'),
        ({'attention': 'additive', 'num_layers': 2}, 'has one'),
        ({'dropout_rate': 1.0}, r'\[0, 1\)'),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        CaptionerConfig(**change)


def test_images_of_another_size_are_refused():
    config = CaptionerConfig.tiny()
    images, words = config.example_inputs()
    with pytest.raises(ConfigError, match='8'):
        jax.eval_shape(config.build().init, jax.random.key(0), images[:, :5], words)
