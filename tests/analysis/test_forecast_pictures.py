"""A forecast is drawn with its interval, its errors in words, and several steps ahead."""

import numpy as np
import pytest

from seqzoo.analysis.forecast_pictures import forecast_picture
from seqzoo.tasks.forecasting import OneStepAhead
from seqzoo.tasks.roll_out import Forecast


@pytest.mark.parametrize('interval', [True, False])
def test_the_picture_says_how_well_the_forecast_did(tmp_path, interval):
    values = np.sin(np.arange(40.0))
    times = [f'1990-01-{day:02}' for day in range(1, 31)] + ['later'] * 10
    actual = values[-20:]
    one_step = OneStepAhead(
        actual=actual,
        mean=actual + 0.1,
        low=actual - np.where(np.arange(20) < 5, -0.05, 1),  # the first five lie below it
        high=actual + 1,
        last=values[-21:-1],
        season=None,
        nll=np.zeros(20),
    )
    ahead = Forecast(np.zeros((1, 4)), *((np.full((1, 4), -1.0), np.ones((1, 4))) * interval))
    figure = forecast_picture(
        values, times, one_step, ahead, 36, tmp_path / 'f.png', name='waves', interval=0.9
    )
    assert (tmp_path / 'f.png').read_bytes().startswith(b'\x89PNG')
    upper, lower = figure.axes
    title = ' '.join(upper.get_title(loc='left').split())
    persistence = np.sqrt(np.mean((actual - values[-21:-1]) ** 2))
    assert f'root mean square error 0.1 (persistence {persistence:.3g})' in title
    assert '75 % of 20 values lie in the 90 % interval' in title
    assert lower.get_title(loc='left') == '4 steps ahead, from later'
    assert len(lower.collections) == interval  # the band
    forecast, _, truth = lower.lines
    np.testing.assert_array_equal(forecast.get_xdata(), [36, 37, 38, 39])  # no dates: numbers
    np.testing.assert_array_equal(truth.get_ydata(), values[23:40])
