"""Traps of reproduction: what moves a published number without anyone saying so, held fast here.

Others are held elsewhere: dialects of BLEU in tests/scoring, parameter counts and the vocabulary
behind them in tests/analysis/test_audit, biases of cells in tests/layers/test_recurrent, what may
stand together in a table in tests/benchmarks/test_rows.
"""

import math
import re

import pytest

from seqzoo.configuration import load_config
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import EpochDecay, Noam

WMT = [f'transformer_{size}_wmt14_{pair}' for size in ('base', 'big') for pair in ('ende', 'enfr')]


@pytest.mark.parametrize('name', WMT)
def test_the_transformer_is_the_papers_and_not_what_its_code_later_became(name):
    found = load_config(name)
    model, optimizer, schedule = found.model, found.optimizer, found.schedule
    assert (model.norm, model.positions, model.tie) == ('post', 'sinusoidal', 'all')
    assert model.scale_embeddings
    assert not model.attention_bias
    assert model.attention_dropout_rate == model.mlp_dropout_rate == 0.0
    assert isinstance(optimizer, Adam)
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon) == (0.9, 0.98, 1e-9)
    assert isinstance(schedule, Noam)
    assert (schedule.warmup_steps, schedule.factor) == (4000, 1.0)
    assert schedule.embed_dim == model.embed_dim
    assert (found.decode.beams, found.decode.length_penalty) == (4, 0.6)
    assert found.decode.extra_length == 50
    assert found.train.keep_snapshots == (5 if 'base' in name else 20)


@pytest.mark.parametrize('name', WMT)
def test_translation_is_out_of_english(name):
    task = load_config(name).task
    assert task.source_language == 'en'
    assert task.data_name.endswith(f'en-{task.target_language}')
    assert task.target_language == name[-2:]


def test_table_2_is_averaged_and_table_3_is_not_and_each_says_its_test_set():
    table2 = load_config('transformer_base_wmt14_ende').published.result
    table3 = load_config('transformer_base_wmt14_ende:table3').published.result
    assert ('newstest2014' in table2, 'newstest2013' in table3) == (True, True)
    assert '27.3' in table2
    assert '25.8' in table3


@pytest.mark.parametrize(
    ('name', 'clip', 'printed_rate'),
    [('lstm_ptb', 5, 1.0), ('lstm_ptb:medium', 5, 1.0), ('lstm_ptb:large', 10, 1.0)],
)
def test_a_loss_that_is_summed_over_time_there_is_a_mean_here(name, clip, printed_rate):
    found = load_config(name)
    steps = found.batch.max_length
    assert isinstance(found.schedule, EpochDecay)
    assert found.schedule.rate == pytest.approx(printed_rate * steps)
    assert found.optimizer.clip_norm == pytest.approx(clip / steps)
    assert found.model.layers.cell.forget_bias == 0.0


def test_withdrawn_and_mixed_up_figures_are_not_quoted():
    for name in ('lstm_big_lm1b', *(f'lstm_big_lm1b:{v}' for v in ('f512', 'g2', 'g4', 'g8'))):
        result = load_config(name).published.result
        figure = float(re.findall(r'[\d.]+', result)[0])
        assert figure > 30  # the first ones, 23 to 24, were withdrawn by their authors
    awd = load_config('awd_lstm_ptb').published.result
    assert '58.8' in awd  # without finetuning, which is not done here
    assert '57.3' not in awd
    assert 'ten epochs' in load_config('lstm_moe_lm1b').published.result


def test_long_reviews_keep_their_end_as_the_published_recipe_does():
    task = load_config('bilstm_imdb:keras').task
    assert (task.words.keep, task.words.max_words) == ('last', 200)


def test_loss_without_memory_is_known_where_a_network_may_learn_nothing():
    copy = load_config('lstm_copy_memory').task.corpus
    assert copy.length == 50
    assert load_config('tcn_copy_memory').task.corpus.length == 1000
    assert 10 * math.log(8) / (1000 + 20) == pytest.approx(0.0204, abs=5e-5)
