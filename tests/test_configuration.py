"""Configurations: overrides, JSON, differences, files."""

import enum
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqzoo import configuration
from seqzoo.errors import UserError


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, kw_only=True)
class Base:
    dropout_rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Model(Base):
    num_layers: int = 6
    norm: Literal['pre', 'post'] = 'post'
    key_dim: int | None = None
    kernels: tuple[int, ...] = (3, 5)
    size: tuple[int, float] = (1, 0.5)
    tied: bool = False

    def __post_init__(self) -> None:
        if self.key_dim is not None and self.key_dim > 10 * self.num_layers:
            raise ValueError('key_dim is too large for num_layers; lower it')


@dataclass(frozen=True)
class Stop:
    patience: int = 3


@dataclass(frozen=True)
class Train:
    steps: int = 100
    checkpoint_every: int = 50
    clip: float = math.inf
    stop: Stop | None = None
    log: str | None = None
    rules: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True)
class Run:
    model: Base = field(default_factory=Model)
    train: Train = Train()
    seed: int = 0
    colour: Colour = Colour.RED
    stack: Sequence[Stop] = ()


# ---------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ('arguments', 'path', 'value'),
    [
        (['--model.num-layers', '2'], 'model.num_layers', 2),
        (['--model.num_layers=2'], 'model.num_layers', 2),
        (['--train.steps', '1e5'], 'train.steps', 100_000),
        (['--model.norm', 'pre'], 'model.norm', 'pre'),
        (['--model.key-dim', '16'], 'model.key_dim', 16),
        (['--model.key-dim', 'none'], 'model.key_dim', None),
        (['--model.kernels', '7,9,11'], 'model.kernels', (7, 9, 11)),
        (['--model.kernels', '7'], 'model.kernels', (7,)),
        (['--model.kernels', '()'], 'model.kernels', ()),
        (['--model.size', '2,3'], 'model.size', (2, 3.0)),
        (['--model.tied'], 'model.tied', True),
        (['--model.tied', 'True'], 'model.tied', True),
        (['--model.tied', 'false'], 'model.tied', False),
        (['--model.dropout-rate', '0'], 'model.dropout_rate', 0.0),
        (['--train.stop.patience', '5'], 'train.stop', Stop(5)),
        (['--train.log', 'a b'], 'train.log', 'a b'),
        (['--train.log='], 'train.log', ''),
        (['--train.rules', "[('a', None), ('b', 'c')]"], 'train.rules', (('a', None), ('b', 'c'))),
        (['--seed', '-1'], 'seed', -1),
        (['--colour', 'BLUE'], 'colour', Colour.BLUE),
        (['--seed', '1', '--seed', '2'], 'seed', 2),
    ],
)
def test_an_override_reaches_its_field_with_its_type(
    arguments: list[str], path: str, value: Any
) -> None:
    changed: Any = configuration.override(Run(), arguments)
    for name in path.split('.'):
        changed = getattr(changed, name)
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (
            ['--model.num-layer', '2'],
            ['unknown option --model.num-layer;', 'did you mean --model.num-layers?'],
        ),
        (['--num-layers', '2'], ['did you mean --model.num-layers?']),
        (['--modle.norm', 'pre'], ['did you mean --model.norm?']),
        (['--model.num-layers', 'two'], ['--model.num-layers must be a whole number', "'two'"]),
        (['--model.num-layers', '2.5'], ['whole number']),
        (['--model.norm', 'both'], ['--model.norm must be pre or post', "'both'"]),
        (['--model.key-dim', 'x'], ['a whole number or none']),
        (['--model.tied', 'maybe'], ['true or false']),
        (['--model.size', '1,2,3'], ['a whole number, a number']),
        (
            ['--model.kernels', '3', '5'],
            ["unexpected argument '5' after --model.kernels", 'commas'],
        ),
        (['--model', '2'], ['--model is a group of options, such as --model.dropout-rate']),
        (['--seed'], ['--seed needs a value: a whole number']),
        (['--seed.x', '1'], ['--seed is a single value']),
        (['--model.key-dim', '100'], ['model: key_dim is too large for num_layers; lower it']),
        (['--train.stop.patient', '5'], ['--train.stop.patient']),
        (['--colour', 'green'], ['RED or BLUE']),
    ],
)
def test_a_wrong_override_is_refused_in_one_sentence(
    arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        configuration.override(Run(), arguments)
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_overrides_are_validated_together() -> None:
    changed = configuration.override(Run(), ['--model.key-dim', '100', '--model.num-layers', '12'])
    assert changed.model == Model(key_dim=100, num_layers=12)


def test_a_mapping_may_be_dotted_nested_or_hold_whole_parts() -> None:
    wanted = Run(model=Model(num_layers=2, norm='pre'), train=Train(stop=Stop(1)), seed=4)
    dotted = {'model.num_layers': 2, 'model.norm': 'pre', 'train.stop': Stop(1), 'seed': 4}
    nested = {
        'model': {'num_layers': 2, 'norm': 'pre'},
        'train': {'stop': {'patience': 1}},
        'seed': 4,
    }
    assert configuration.override(Run(), dotted) == configuration.override(Run(), nested) == wanted
    assert configuration.override(Run(), {'model': Base(dropout_rate=0.5)}).model == Base(
        dropout_rate=0.5
    )
    with pytest.raises(UserError, match='--seed must be a whole number'):
        configuration.override(Run(), {'seed': 'four'})
    with pytest.raises(UserError, match='--model must be Base'):
        configuration.override(Run(), {'model': Stop()})


def test_options_lists_every_leaf_with_its_type_and_value() -> None:
    found = {option.path: option for option in configuration.options(Run())}
    assert found['model.num_layers'].value == 6
    assert found['model.num_layers'].type == 'a whole number'
    assert 'model' not in found


# --------------------------------------------------------------------------------------------- JSON

floats = st.floats(allow_nan=False)
models = st.builds(
    Model,
    dropout_rate=floats,
    num_layers=st.integers(1, 99),
    norm=st.sampled_from(['pre', 'post']),
    key_dim=st.none() | st.integers(0, 10),
    kernels=st.lists(st.integers()).map(tuple),
    size=st.tuples(st.integers(), floats),
    tied=st.booleans(),
)
trains = st.builds(
    Train,
    clip=floats,
    stop=st.none() | st.builds(Stop, st.integers()),
    log=st.none() | st.text(),
    rules=st.lists(st.tuples(st.text(), st.none() | st.text())).map(tuple),
)
runs = st.builds(
    Run,
    model=models | st.builds(Base, dropout_rate=floats),
    train=trains,
    seed=st.integers(),
    colour=st.sampled_from(Colour),
    stack=st.lists(st.builds(Stop, st.integers())).map(tuple),
)


@given(runs)
@settings(max_examples=100, deadline=None)
def test_json_gives_back_an_equal_and_equally_hashed_configuration(run: Run) -> None:
    text = configuration.to_json(run)
    again = configuration.from_json(text)
    assert again == run
    assert hash(again) == hash(run)
    assert configuration.to_json(again) == text
    assert configuration.differences(run, again) == []


def test_json_is_strict_and_names_types() -> None:
    value = json.loads(configuration.to_json(Run()), parse_constant=pytest.fail)
    assert value['model']['@type'] == f'{__name__}:Model'


@pytest.mark.parametrize(
    ('path', 'value', 'words'),
    [
        (
            ['model', 'num_layer'],
            1,
            'model.num_layer of the saved configuration is unknown to Model; did you mean num_la',
        ),
        (
            ['model', 'num_layers'],
            None,
            'model.num_layers of the saved configuration must be a whole number, not None',
        ),
        (['model', 'num_layers'], True, 'model.num_layers'),
        (
            ['model', 'norm'],
            'both',
            'model.norm of the saved configuration must be pre or post, not both',
        ),
        (['model', 'kernels'], [1, 'x'], 'model.kernels'),
        (['model', '@type'], 'nowhere:Model', 'nowhere:Model, which cannot be imported'),
        (['model', '@type'], 'seqzoo.errors:UserError', 'no such dataclass'),
        (['train', 'stop'], {'@type': f'{__name__}:Base', 'dropout_rate': 0.1}, 'train.stop'),
        (['model', '@type'], '<config>:Mine', 'there is no copy'),
    ],
)
def test_wrong_json_names_the_field(path: list[str], value: Any, words: str) -> None:
    tree = json.loads(configuration.to_json(Run()))
    node = tree
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    with pytest.raises(UserError) as caught:
        configuration.from_json(json.dumps(tree))
    assert words in str(caught.value)


@dataclass(frozen=True)
class Data:
    folder: str
    shuffle: bool = True


def test_a_configuration_older_than_a_field_takes_the_default_of_the_field() -> None:
    old = Run(train=Train(steps=7))
    tree = json.loads(configuration.to_json(old))
    del tree['train']['clip'], tree['model']['kernels'], tree['stack']
    assert configuration.from_json(json.dumps(tree)) == old


def test_a_missing_field_without_a_default_is_named() -> None:
    tree = json.loads(configuration.to_json(Data('here')))
    del tree['folder']
    with pytest.raises(UserError, match='folder is missing'):
        configuration.from_json(json.dumps(tree))
    with pytest.raises(UserError, match='not JSON'):
        configuration.from_json('{')


def test_what_json_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r'train\.log cannot be saved'):
        configuration.to_json(Run(train=Train(log=print)))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------- differences


def test_differences_are_the_changed_fields_and_nothing_else() -> None:
    left, right = Run(), Run(model=Model(num_layers=2), train=Train(stop=Stop()), seed=1)
    assert [str(d) for d in configuration.differences(left, right)] == [
        'model.num_layers: 6 -> 2',
        'train.stop: None -> Stop',
        'seed: 0 -> 1',
    ]


def test_another_type_is_one_difference() -> None:
    assert [str(d) for d in configuration.differences(Run(), Run(model=Base()))] == [
        'model: Model -> Base'
    ]


def test_parts_are_compared_under_their_own_path() -> None:
    found = configuration.differences(Model(), Model(kernels=(7,)), path='model')
    assert [str(d) for d in found] == ['model.kernels: (3, 5) -> (7)']
    assert [str(d) for d in configuration.differences(1, 2, path='seed')] == ['seed: 1 -> 2']


# -------------------------------------------------------------------------------------------- files

CONFIG = """
from dataclasses import dataclass
from beside import SEED

@dataclass(frozen=True)
class Mine:
    width: int = 4

@dataclass(frozen=True)
class Outer:
    mine: Mine = Mine()
    seed: int = SEED

def experiment():
    return Outer()

VARIANTS = {'wide': {'mine.width': 8}, 'wrong': {'mine.widht': 8}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / 'beside.py').write_text('SEED = 3\n')
    path = tmp_path / 'my_config.py'
    path.write_text(CONFIG)
    return path


def test_a_file_its_variant_and_overrides_are_applied_in_this_order(config: Path) -> None:
    assert configuration.load_config(config).seed == 3
    assert configuration.load_config(f'{config}:wide').mine.width == 8
    assert configuration.load_config(f'{config}:wide', ['--mine.width', '9']).mine.width == 9
    assert configuration.load_config(f'{config}:wide', {'seed': 5}).seed == 5


def test_types_of_a_users_file_are_found_again_in_its_copy(config: Path, tmp_path: Path) -> None:
    outer = configuration.load_config(f'{config}:wide')
    assert configuration.config_source(outer) == config.resolve()
    assert configuration.config_source(Run()) is None
    text = configuration.to_json(outer)
    assert str(tmp_path) not in text
    copy = tmp_path / 'run' / 'config.py'
    copy.parent.mkdir()
    copy.write_text(config.read_text())
    (copy.parent / 'beside.py').write_text('SEED = 3\n')
    again = configuration.from_json(text, copy)
    assert again.mine.width == 8
    assert type(again).__name__ == 'Outer'
    assert configuration.differences(outer, again) == []


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('x = 0\n1 / x', 'does not run: ZeroDivisionError: division by zero (line 2)'),
        ('def experiment(:', 'does not run: SyntaxError'),
        ('raise SystemExit(3)', 'does not run: SystemExit'),
        ('x = 1', 'has no function experiment()'),
        ('def experiment():\n    return {}["a"]', "my_config.py failed: KeyError: 'a'"),
        ('def experiment():\n    return 5', 'not an Experiment'),
    ],
)
def test_a_broken_file_is_named_with_its_error(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / 'my_config.py'
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        configuration.load_config(path)
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


def test_unknown_names_files_and_variants_are_refused(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('seqzoo.configuration.files.configs_folder', lambda: config.parent)
    assert configuration.config_names() == ['beside', 'my_config']
    assert configuration.load_config('my_config').seed == 3
    with pytest.raises(UserError, match="'my_confg'; did you mean my_config"):
        configuration.find_config('my_confg')
    with pytest.raises(UserError, match='there is no configuration file'):
        configuration.find_config('elsewhere/my_config.py')
    with pytest.raises(UserError, match="no variant 'wid'; did you mean wide"):
        configuration.find_config('my_config:wid')
    with pytest.raises(UserError, match="variant 'wrong' of my_config: unknown option"):
        configuration.load_config('my_config:wrong')


def test_configuration_does_not_import_jax() -> None:
    code = 'import sys, seqzoo.configuration; sys.exit("jax" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
