"""Times what the training loop adds to a step, and for how long a save keeps the loop.

Runs the real `train`, with its data, log, TensorBoard, lock and signals, on text of random words in
which every batch is full. It is taken in turns with the bare compiled step: after every `--steps`
steps of the loop, in between two of its batches, the same compiled program takes as many steps on a
state and a batch of its own that lie ready on the device. Both begin with an idle device and end
when their last step is done, so that whatever else the machine does falls on both alike.

    python benchmarks/loop.py
    python benchmarks/loop.py --layers 1 --embed-dim 16 --mlp-dim 32 --heads 2 --vocab 64 \
        --batch 2 --length 8 --steps 3 --repeats 2              # does it run at all

The loop's log is written every `--steps` steps, at least as often as a run would. A round's
quotient is the loop's time over the mean of the bare times before and after it; the same for
processor time, which other programs disturb less.

A save is timed with the device idle: `check` asks the device whether all parameters are finite,
`save` is the call that gives the state to the writer, after which the next step may begin. The
writer works on in the background until the checkpoint is committed; its processor time and the time
until then stand apart.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import program
from machine import facts, quartiles, ran_on
from train_step_systems import ROOT, Shape

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
sys.path.insert(0, str(ROOT))

import jax
import numpy as np

from seqzoo.data.batching import BatchConfig
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant
from seqzoo.parallel.mesh import MeshConfig
from seqzoo.tasks.translation import Translation
from seqzoo.training import loop as loop_module
from seqzoo.training import program as program_module
from seqzoo.training import train as train_function
from seqzoo.training.checkpoint import Checkpoints

train_module = sys.modules[train_function.__module__]
RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


@dataclass
class Turns:
    """Lets the loop and the bare step take turns, and times both.

    Attributes:
        steps: of each in a round.
        rounds: after which the loop goes on undisturbed.
        loop, bare: seconds and processor seconds of each round; the bare step has one round more,
            before the first of the loop.
    """

    steps: int
    rounds: int
    loop: list[dict[str, float]] = field(default_factory=list)
    bare: list[dict[str, float]] = field(default_factory=list)
    program: Callable[..., Any] | None = None
    state: Any = None
    batch: Any = None
    _last: Any = None
    _began: tuple[float, float] = (0.0, 0.0)

    def record(self, compile_step: Callable[..., Any]) -> Callable[..., Any]:
        """In place of `compile_train_step`: the same program, whose last results are at hand."""

        def compiling(*arguments: Any, **options: Any) -> Callable[..., Any]:
            self.program = program = compile_step(*arguments, **options)

            def step(state: Any, batch: Any) -> Any:
                if self.state is None:  # its own copy, before the loop's is given away
                    self.state = jax.tree.map(lambda leaf: leaf.copy(), state)
                    self.batch = jax.tree.map(lambda leaf: leaf.copy(), batch)
                self._last = program(state, batch)
                return self._last

            return step

        return compiling

    def around(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The loop's batches; now and then the bare step has its turn before the next one."""
        for number, batch in enumerate(batches):
            # The first step compiles, the second fills caches and pools.
            turn, rest = divmod(number - 2, self.steps)
            if rest == 0 and 0 <= turn <= self.rounds:
                jax.block_until_ready(self._last)
                if turn:
                    self.loop.append(self._since())
                self._bare()
                self._began = _now()
            yield batch

    def _bare(self) -> None:
        assert self.program is not None
        if not self.bare:
            self.state = jax.block_until_ready(self.program(self.state, self.batch))[0]
        self._began = _now()
        for _ in range(self.steps):
            self.state, metrics = self.program(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        self.bare.append(self._since())
        print(f'round {len(self.bare) - 1} of {self.rounds}', file=sys.stderr)

    def _since(self) -> dict[str, float]:
        wall, processor = (now - then for now, then in zip(_now(), self._began, strict=True))
        return {'seconds': wall / self.steps, 'processor_seconds': processor / self.steps}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True, kw_only=True)
class Paced(Translation):
    """Translation whose training batches are handed out by `turns`."""

    turns: Any = None

    def batches(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        return self.turns.around(super().batches(*arguments, **options))


def experiment(shape: Shape, task: Translation, steps: int, log_every: int) -> Experiment:
    """The Transformer of `shape` on batches without padding."""
    return Experiment(
        model=TransformerConfig(
            num_layers=shape.layers,
            embed_dim=shape.embed_dim,
            mlp_dim=shape.mlp_dim,
            num_heads=shape.heads,
            dropout_rate=0.1,
        ),
        task=task,
        optimizer=Adam(),
        schedule=Constant(rate=1e-4),
        batch=BatchConfig(
            tokens=shape.batch * shape.length, max_length=shape.length, buckets=(shape.length,)
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(
            steps=steps, log_every=log_every, evaluate_every=0, checkpoint_every=10 * steps
        ),
    )


def write_text(folder: pathlib.Path, shape: Shape, rows: int) -> None:
    """Lines of `length - 1` random words; all words of the vocabulary occur."""
    generator = np.random.default_rng(0)
    words = np.asarray([f'w{n:05}' for n in range(shape.vocab - 4)])
    count = max(rows, -(-len(words) // (shape.length - 1)))
    for split, lines in (('train', count), ('dev', shape.batch)):
        for language in ('en', 'de'):
            drawn = generator.integers(len(words), size=(lines, shape.length - 1))
            if split == 'train':
                drawn.flat[: len(words)] = generator.permutation(len(words))
            text = '\n'.join(' '.join(line) for line in words[drawn])
            (folder / f'{split}.{language}').write_text(text + '\n')


def measure(shape: Shape, steps: int, repeats: int) -> dict[str, Any]:
    """Runs the loop and the bare step in turns, then saves."""
    before = os.getloadavg()
    turns = Turns(steps, repeats)
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        total = steps * repeats + 3
        write_text(folder, shape, shape.batch * (total + 2))
        task = Paced(tokenizer=TokenizerConfig(kind='word', vocab_size=shape.vocab), turns=turns)
        # An experiment is stored as text, in which the object that takes turns has no place.
        train_module.save_experiment = lambda *given: None
        program_module.compile_train_step = turns.record(program_module.compile_train_step)
        train_function(
            experiment(shape, task, total, steps),
            folder / 'run',
            data_dir=folder,
            cache_dir=folder / 'cache',
            progress='lines',
        )
        saves = time_saves(folder / 'saves', turns, repeats)
        events = (folder / 'run' / 'metrics.jsonl').read_text().splitlines()
    goodput = next(e for e in map(json.loads, events) if e['kind'] == 'goodput')
    step = statistics.median(run['seconds'] for run in turns.bare)
    return {
        'shape': asdict(shape),
        'steps_per_round': steps,
        'repeats': repeats,
        'machine': facts(PACKAGES),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'loop': summary(turns.loop),
        'bare': summary(turns.bare),
        'quotient': {
            name: _spread(quotients(turns, name)) for name in ('seconds', 'processor_seconds')
        },
        'save': {
            'parameters': sum(leaf.size for leaf in jax.tree.leaves(turns.state.params)),
            'bytes': sum(leaf.nbytes for leaf in jax.tree.leaves(turns.state)),
            **{name: _spread([save[name] for save in saves]) for name in saves[0]},
            'share_of_a_step': {
                name: statistics.median(save[name] for save in saves) / step
                for name in ('check', 'save')
            },
            'all': saves,
        },
        'goodput': goodput,
    }


def quotients(turns: Turns, name: str) -> list[float]:
    """Each round of the loop over the bare steps around it."""
    around = zip(turns.bare, turns.bare[1:], strict=False)
    return [
        2 * ours[name] / (one[name] + other[name])
        for ours, (one, other) in zip(turns.loop, around, strict=True)
    ]


def time_saves(folder: pathlib.Path, turns: Turns, repeats: int) -> list[dict[str, float]]:
    """Saves the bare step's state some times, a step in between."""
    assert turns.program is not None
    found = []
    with Checkpoints(folder, keep=1) as checkpoints:
        for number in range(repeats + 1):
            turns.state, _ = jax.block_until_ready(turns.program(turns.state, turns.batch))
            start, processor_before = _now()
            assert bool(loop_module._all_finite(turns.state.params))
            checked, processor = _now()
            checkpoints.save(number, turns.state, {})
            saved, _ = _now()
            checkpoints.wait()
            committed, processor_then = _now()
            if number:  # the first one compiles the check and starts the writer's threads
                found.append(
                    {
                        'check': checked - start,
                        'check_processor_seconds': processor - processor_before,
                        'save': saved - checked,
                        'until_committed': committed - checked,
                        'processor_seconds': processor_then - processor,
                    }
                )
    return found


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Median and spread of every quantity, and all its values."""
    return {name: _spread([run[name] for run in runs]) for name in runs[0]}


def _spread(values: list[float]) -> dict[str, Any]:
    low, median, high = quartiles(values)
    return {'median': median, 'quartiles': [low, high], 'least': min(values), 'all': values}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    shape = result['shape']
    lines = [
        '# What the training loop adds to a step',
        '',
        f'{shape["layers"]}+{shape["layers"]} layers, width {shape["embed_dim"]}, feed-forward '
        f'{shape["mlp_dim"]}, {shape["heads"]} heads, vocabulary {shape["vocab"]:,} (tied), '
        f'{result["save"]["parameters"]:,} parameters; batch {shape["batch"]} x '
        f'({shape["length"]} + {shape["length"]}) tokens; dropout and label smoothing 0.1, Adam, '
        'float32.',
        '',
        f'{ran_on(result)} {result["repeats"]} interleaved rounds of '
        f'{result["steps_per_round"]} steps.',
        '',
        '| | s per step: median (quartiles) | least | processor s: median (quartiles) |',
        '|---|---|---|---|',
    ]
    for name, title in (('bare', 'the compiled step alone'), ('loop', '`seqzoo train`')):
        s, p = result[name]['seconds'], result[name]['processor_seconds']
        lines.append(f'| {title} | {_shown(s)} | {s["least"]:.4f} | {_shown(p)} |')
    s, p = result['quotient']['seconds'], result['quotient']['processor_seconds']
    lines.append(f'| quotient, round by round | {_shown(s)} | | {_shown(p)} |')
    save = result['save']
    lines += [
        '',
        f'A save of {save["bytes"] / 1e6:,.0f} MB (parameters, two moments):',
        '',
        '| | s: median (quartiles) | share of a step |',
        '|---|---|---|',
    ]
    for name, title in (
        ('check', 'the check that the parameters are finite'),
        ('save', 'the call that saves'),
    ):
        share = save['share_of_a_step'][name]
        lines.append(f'| {title} | {_shown(save[name])} | {share:.1%} |')
    lines += [
        f"| the check's processor time | {_shown(save['check_processor_seconds'])} | |",
        f'| until committed, in the background | {_shown(save["until_committed"])} | |',
        f"| the writer's processor time | {_shown(save['processor_seconds'])} | |",
    ]
    notes = (__doc__ or '').split('\n\n')
    return '\n'.join([*lines, '', notes[1], '', notes[3], '', notes[4].strip(), ''])


def _shown(spread: dict[str, Any]) -> str:
    low, high = spread['quartiles']
    return f'{spread["median"]:.4f} ({low:.4f} to {high:.4f})'


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for option, value in asdict(Shape()).items():
        parser.add_argument(f'--{option.replace("_", "-")}', type=int, default=value)
    parser.add_argument('--steps', type=int, default=5, help='steps of a round')
    parser.add_argument('--repeats', type=int, default=7, help='rounds, and saves')
    parser.add_argument('--output', type=pathlib.Path, default=RESULTS, help='folder for results')
    parser.add_argument('--name', default='loop', help='name of the two files of results')
    return parser.parse_args(argv)


def main() -> None:
    """Measures, and writes what was found as JSON and Markdown."""
    given = arguments()
    shape = Shape(**{name: getattr(given, name) for name in asdict(Shape())})
    result = measure(shape, given.steps, given.repeats)
    given.output.mkdir(parents=True, exist_ok=True)
    text = table(result)
    (given.output / f'{given.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (given.output / f'{given.name}.md').write_text(text)
    print(text)


if __name__ == '__main__':
    program.run(main)
