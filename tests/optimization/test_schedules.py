"""Schedules at the points where papers state them."""

import math
import re

import numpy as np
import pytest

from seqzoo.errors import ConfigError
from seqzoo.optimization.schedules import (
    Constant,
    Cosine,
    EpochDecay,
    InverseSquareRoot,
    Linear,
    Noam,
)


@pytest.mark.parametrize(('width', 'peak'), [(512, 6.99e-4), (1024, 4.94e-4)])
def test_the_papers_schedule_peaks_where_its_figures_say(width, peak):
    rate = Noam(embed_dim=width, warmup_steps=4000).build(1)
    rates = np.asarray([rate(step) for step in (0, 1999, 3998, 3999, 4000, 15_999)])
    assert rates[3] == rates.max()
    np.testing.assert_allclose(rates[3], peak, rtol=1e-3)
    np.testing.assert_allclose(rates[0], width**-0.5 * 4000**-1.5, rtol=1e-5)  # n = 1, not 0
    np.testing.assert_allclose(rates[1], rates[3] / 2, rtol=1e-5)
    np.testing.assert_allclose(rates[5], rates[3] / 2, rtol=1e-5)


def test_inverse_square_root_reaches_its_peak_and_halves_after_four_times_the_warm_up():
    rate = InverseSquareRoot(peak=0.005, warmup_steps=2000).build(1)
    np.testing.assert_allclose(rate(1999), 0.005, rtol=1e-5)
    np.testing.assert_allclose(rate(7999), 0.0025, rtol=1e-5)
    assert rate(0) < 1e-5


def test_cosine_and_linear_end_where_they_say():
    for kind in (Cosine, Linear):
        rate = kind(peak=1.0, warmup_steps=10, decay_steps=110, final=0.1).build(1)
        np.testing.assert_allclose(rate(10), 1.0, rtol=1e-5)
        np.testing.assert_allclose(rate(110), 0.1, rtol=1e-5)
        np.testing.assert_allclose(rate(60), 0.55, rtol=1e-5)  # both are half-way in the middle


def test_epoch_decay_counts_epochs():
    rate = EpochDecay(rate=1.0, constant_epochs=4, divisor=2.0).build(steps_per_epoch=100)
    found = [float(rate(epoch * 100)) for epoch in range(6)]
    assert found == [1, 1, 1, 1, 0.5, 0.25]


def test_constant_may_warm_up():
    assert float(Constant(rate=0.3).build(1)(0)) == pytest.approx(0.3)
    assert math.isclose(float(Constant(rate=0.3, warmup_steps=10).build(1)(5)), 0.15, rel_tol=1e-5)


@pytest.mark.parametrize(
    ('build', 'said'),
    [
        (lambda: InverseSquareRoot(warmup_steps=0), 'warmup_steps is 0'),
        (lambda: InverseSquareRoot(warmup_steps=-5), 'warmup_steps is -5'),
        (lambda: Noam(warmup_steps=0), 'warmup_steps is 0'),
        (lambda: Noam(embed_dim=0), 'embed_dim is 0'),
        (lambda: Cosine(warmup_steps=100, decay_steps=50), 'decay_steps is 50'),
        (lambda: Linear(warmup_steps=100, decay_steps=100), 'decay_steps is 100'),
        (lambda: Linear(warmup_steps=-1), 'warmup_steps is -1'),
        (lambda: Cosine(peak=-1e-3), 'peak is -0.001'),
        (lambda: Constant(rate=float('nan')), 'rate is nan'),
        (lambda: EpochDecay(divisor=0.5), 'divisor is 0.5'),
        (lambda: EpochDecay(constant_epochs=-1), 'constant_epochs is -1'),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(build, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        build()


@pytest.mark.parametrize('kind', [Cosine, Linear, Constant])
def test_these_do_without_a_warm_up(kind):
    rate = kind(warmup_steps=0).build(10)
    assert float(rate(0)) == pytest.approx(1e-3)
