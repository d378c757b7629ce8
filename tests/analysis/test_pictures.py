"""What is drawn is what was given, labelled, and a readable file."""

import itertools
import math
import sys

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seqzoo.analysis import drawing, pictures
from seqzoo.analysis.attention_maps import describe_head
from seqzoo.analysis.loss_curves import smoothed
from seqzoo.errors import UserError

SOURCE = ['▁three', '▁hundred', '▁forty', '-', 'two', '</s>']
TARGET = ['▁drei', 'hundert', 'zwei', 'und', 'vier', 'zig', '</s>']


def distributions(*shape):
    return np.random.default_rng(0).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def run_events(num_steps=300, scale=1.0, bleu=True):
    events = []
    for step in range(10, num_steps + 1, 10):
        loss = scale * (1 + math.exp(-step / 100))
        events.append({'kind': 'train', 'step': step, 'loss': loss, 'tokens': 9})
        if step % 100 == 0:
            evaluation = {'kind': 'evaluation', 'step': step, 'loss': loss + 0.2}
            events.append(evaluation | ({'bleu': step / 10} if bleu else {}))
    return [*events, {'kind': 'checkpoint', 'step': num_steps}]


def panels(figure):
    """The axes that show data, without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != '<colorbar>']


def labels(ticks):
    return [tick.get_text() for tick in ticks]


def assert_readable_png(path, least=400, most=4500):
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.format == 'PNG'
        assert image.info['dpi'][0] == pytest.approx(150, abs=1)
        assert all(least <= side <= most for side in image.size), image.size
        assert len(image.convert('RGB').getcolors(1 << 24)) > 20
    assert path.stat().st_size < 300_000


# Loss curves


def test_a_loss_curve_shows_every_logged_loss_and_every_evaluation(tmp_path):
    path = tmp_path / 'pictures' / 'loss.png'
    figure = pictures.loss_curve([('tiny', run_events())], path)
    loss_panel, bleu_panel = panels(figure)
    train, dev = loss_panel.get_lines()
    expected = [e for e in run_events() if e['kind'] == 'train']
    np.testing.assert_array_equal(train.get_xdata(), [e['step'] for e in expected])
    np.testing.assert_allclose(train.get_ydata(), [e['loss'] for e in expected])
    np.testing.assert_array_equal(dev.get_xdata(), [100, 200, 300])
    np.testing.assert_allclose(bleu_panel.get_lines()[0].get_ydata(), [10, 20, 30])
    assert 'nats' in loss_panel.get_ylabel()
    assert 'BLEU' in bleu_panel.get_ylabel()
    assert 'step' in bleu_panel.get_xlabel()
    title = loss_panel.get_title(loc='left')
    assert 'fell from 1.9 to 1.05' in title
    assert 'BLEU 30.0 at step 300' in title
    assert_readable_png(path)


def test_without_bleu_there_is_one_panel():
    figure = pictures.loss_curve([('tiny', run_events(bleu=False))])
    assert len(panels(figure)) == 1


def test_several_runs_have_their_own_colours_and_names_in_the_legend(tmp_path):
    path = tmp_path / 'loss.png'
    runs = [('klein', run_events()), ('größer $5', run_events(scale=0.5)), ('last', run_events())]
    axes = panels(pictures.loss_curve(runs, path))[0]
    texts = labels(axes.get_legend().get_texts())
    assert texts[:3] == ['klein', 'größer $5', 'last']
    assert 'dev' in texts[3]
    solid = [line for line in axes.get_lines() if line.get_label() in texts]
    assert len({line.get_color() for line in solid}) == 3
    assert 'größer $5 ends lowest' in axes.get_title(loc='left')
    assert_readable_png(path)


def test_long_runs_are_smoothed_and_thinned_but_keep_their_level():
    noise = np.random.default_rng(0).normal(2.0, 0.5, size=20_000)
    events = [{'kind': 'train', 'step': i, 'loss': x} for i, x in enumerate(noise)]
    raw, thick = panels(pictures.loss_curve([('long', events)]))[0].get_lines()
    assert len(raw.get_xdata()) <= 2000
    assert np.mean(thick.get_ydata()) == pytest.approx(noise.mean(), abs=0.01)
    assert np.std(thick.get_ydata()) < np.std(raw.get_ydata()) / 3


def test_a_resumed_run_shows_the_later_of_two_events_of_a_step():
    events = [{'kind': 'train', 'step': s, 'loss': 5.0} for s in (1, 2, 3)]
    events += [{'kind': 'train', 'step': s, 'loss': 4.0} for s in (2, 3, 4)]
    (line,) = panels(pictures.loss_curve([('resumed', events)]))[0].get_lines()
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == [5, 4, 4, 4]


def test_losses_that_are_not_finite_leave_a_gap_and_do_not_reach_the_title(tmp_path):
    events = [
        {'kind': 'train', 'step': s, 'loss': float('nan') if s > 90 else 3 - s / 100}
        for s in range(100)
    ]
    path = tmp_path / 'loss.png'
    axes = panels(pictures.loss_curve([('broken', events)], path))[0]
    assert 'nan' not in axes.get_title(loc='left')
    assert_readable_png(path)


def test_a_run_without_any_loss_is_refused_in_words():
    with pytest.raises(UserError, match='no training loss'):
        pictures.loss_curve([('new', [{'kind': 'start', 'step': 0}])])


def test_a_loss_that_falls_far_gets_a_logarithmic_scale():
    events = [{'kind': 'train', 'step': s, 'loss': 9 * math.exp(-s / 10)} for s in range(50)]
    axes = panels(pictures.loss_curve([('numerals', events)]))[0]
    assert axes.get_yscale() == 'log'
    assert 'log' in axes.get_ylabel()


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=40), window=st.integers(0, 60))
def test_smoothing_stays_within_the_values_and_keeps_constants(values, window):
    result = smoothed(np.array(values), window)
    assert len(result) == len(values)
    assert result.min() >= min(values) - 1e-9
    assert result.max() <= max(values) + 1e-9
    constant = np.full(len(values), 2.5)
    np.testing.assert_allclose(smoothed(constant, window), constant)


def test_smoothing_follows_a_line_without_lag():
    line = np.arange(50.0)
    np.testing.assert_allclose(smoothed(line, 5)[:45], line[:45])


# Attention


def test_an_attention_map_draws_its_weights_with_the_tokens_on_its_axes(tmp_path):
    weights = distributions(len(TARGET), len(SOURCE))
    path = tmp_path / 'map.png'
    figure = pictures.attention_map(weights, SOURCE, TARGET, path, 'zwei looks at two')
    (axes,) = panels(figure)
    np.testing.assert_allclose(axes.get_images()[0].get_array(), weights, rtol=1e-6)
    assert labels(axes.get_xticklabels()) == ['three', 'hundred', 'forty', '-', '·two', '</s>']
    assert labels(axes.get_yticklabels())[:3] == ['drei', '·hundert', '·zwei']
    assert 'source' in axes.get_xlabel()
    assert 'target' in axes.get_ylabel()
    assert figure.get_suptitle() == 'zwei looks at two'
    assert_readable_png(path, least=350)


def test_weights_are_drawn_between_zero_and_a_round_top():
    figure = pictures.attention_map(np.full((2, 10), 0.1), ['x'] * 10, ['y'] * 2)
    assert panels(figure)[0].get_images()[0].get_clim() == (0, 0.1)
    figure = pictures.attention_map(np.eye(3), ['x'] * 3, ['y'] * 3)
    assert panels(figure)[0].get_images()[0].get_clim() == (0, 1)


@pytest.mark.parametrize('heads', [1, 2, 3, 8, 16])
def test_every_head_has_its_panel_on_common_colours(heads):
    weights = distributions(heads, len(TARGET), len(SOURCE))
    figure = pictures.attention_heads(weights, SOURCE, TARGET)
    shown = [axes for axes in panels(figure) if axes.axison]
    assert len(shown) == heads
    for head, axes in enumerate(shown):
        np.testing.assert_allclose(axes.get_images()[0].get_array(), weights[head], rtol=1e-6)
        assert axes.get_xlabel().startswith(f'head {head + 1}:')
    assert len({axes.get_images()[0].get_clim() for axes in shown}) == 1
    assert labels(shown[0].get_xticklabels())[0] == 'three'


def test_forty_tokens_and_eight_heads_stay_readable(tmp_path):
    words = [f'Straßenbahn{i}' for i in range(40)]
    weights = distributions(8, 40, 40)
    path = tmp_path / 'heads.png'
    figure = pictures.attention_heads(weights, words, words, path)
    assert_readable_png(path)
    axes = panels(figure)[0]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 - 3 for upper, lower in itertools.pairwise(boxes))
    assert min(label.get_fontsize() for label in axes.get_yticklabels()) >= 5.5


def test_shapes_that_do_not_fit_the_tokens_are_refused():
    with pytest.raises(ValueError, match='2 target and 3 source'):
        pictures.attention_map(np.ones((3, 2)), ['a', 'b', 'c'], ['d', 'e'])
    with pytest.raises(ValueError, match='do not fit'):
        pictures.attention_heads(np.ones((2, 3)), ['a', 'b', 'c'], ['d', 'e'])


@pytest.mark.parametrize(
    ('weights', 'note'),
    [
        (np.eye(5), 'same token, 100 %'),
        (np.eye(5)[[0, 0, 1, 2, 3]], 'previous token, 100 %'),
        (np.eye(5)[[1, 2, 3, 4, 4]], 'next token, 100 %'),
        (np.full((5, 5), 0.2), 'about 5.0 tokens'),
    ],
)
def test_a_head_is_described_by_where_it_looks(weights, note):
    assert describe_head(weights, same_sentence=True) == note


def test_neighbours_mean_nothing_between_two_sentences():
    assert describe_head(np.eye(5), same_sentence=False) == 'about 1.0 tokens'


# Labels


@pytest.mark.parametrize(
    ('token', 'label'),
    [
        ('▁Straße', 'Straße'),
        ('bahn', '·bahn'),
        ('</s>', '</s>'),
        ('▁', '␣'),
        ('.', '.'),
        ('\n', '↵'),
        ('', '∅'),
        ('日本', '日本'),
    ],
)
def test_piece_labels(token, label):
    assert drawing.token_label(token) == label


def test_whole_words_keep_their_spelling_and_long_ones_are_cut():
    assert drawing.token_labels(['zwei', 'Äpfel', '</s>']) == ['zwei', 'Äpfel', '</s>']
    (label,) = drawing.token_labels(['Donaudampfschifffahrt'], longest=10)
    assert label == 'Donaudamp…'


@pytest.mark.parametrize('tokens', [['$5', '$x_1$', '%', '\\frac'], ['größer', 'ÄÖÜ', 'ß']])
def test_any_token_can_be_a_label(tokens, tmp_path):
    path = tmp_path / 'map.png'
    figure = pictures.attention_map(np.eye(len(tokens)), tokens, tokens, path, title='$ is $')
    assert labels(panels(figure)[0].get_xticklabels()) == tokens
    assert_readable_png(path, least=250)


def test_missing_glyphs_are_said_once(tmp_path):
    tokens = ['\U0001343f', '\U00013440']  # hieroglyph controls, which no font here has
    with pytest.warns(UserWarning, match='no installed font') as caught:
        pictures.attention_map(np.eye(2), tokens, tokens, tmp_path / 'map.png')
    assert len(caught) == 1


# Positions


@pytest.mark.parametrize('layout', ['interleaved', 'concatenated'])
def test_the_position_table_shows_the_sinusoids_of_the_paper(layout, tmp_path):
    path = tmp_path / 'positions.png'
    figure = pictures.position_table(60, 32, path, layout)
    heat, curves = panels(figure)
    shown = np.asarray(heat.get_images()[0].get_array())
    assert shown.shape == (60, 32)
    angles = np.arange(60)[:, None] / 10000 ** (np.arange(0, 32, 2) / 32)
    sine, cosine = (slice(0, None, 2), slice(1, None, 2))
    if layout == 'concatenated':
        sine, cosine = slice(0, 16), slice(16, None)
    np.testing.assert_allclose(shown[:, sine], np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(shown[:, cosine], np.cos(angles), atol=1e-5)
    assert len(curves.get_lines()) == 4
    for line in curves.get_lines():
        column = int(line.get_label().split()[1].rstrip(':'))
        np.testing.assert_allclose(line.get_ydata(), shown[:, column])
    assert 'higher frequencies' in curves.get_title(loc='left')
    assert_readable_png(path)


def test_the_lecture_s_columns_are_drawn_with_their_periods():
    curves = panels(pictures.position_table(60, 32))[1]
    assert [line.get_label() for line in curves.get_lines()] == [
        'column 6: sine, period 35.3',
        'column 7: cosine, period 35.3',
        'column 8: sine, period 62.8',
        'column 9: cosine, period 62.8',
    ]


@pytest.mark.parametrize('dim', [2, 4, 7])
def test_narrow_tables_are_drawn_too(dim):
    curves = panels(pictures.position_table(5, dim))[1]
    assert len(curves.get_lines()) == min(dim // 2, 2) * 2


def test_pictures_leave_matplotlib_s_global_state_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    had_pyplot = 'matplotlib.pyplot' in sys.modules
    pictures.loss_curve([('tiny', run_events())], tmp_path / 'loss.png')
    assert dict(matplotlib.rcParams) == before
    assert ('matplotlib.pyplot' in sys.modules) == had_pyplot
    assert [p.name for p in tmp_path.iterdir()] == ['loss.png']


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        drawing.save(drawing.new_figure(1, 1), tmp_path / 'file' / 'x.png')
