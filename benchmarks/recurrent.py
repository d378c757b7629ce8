"""Times one full training step of a recurrent stack: ours, torch's, and flax's `nn.RNN`.

Every system lives in a process of its own, and the processes take turns: the parent tells one at a
time to run a step, so that whatever else the machine does falls on all of them alike. A step is
loss (mean of the squared outputs), gradient and SGD update; inputs are random and of full length.

    python benchmarks/recurrent.py
    python benchmarks/recurrent.py --hidden 8 --batch 2 --length 5 --repeats 2   # quick

`seqzoo` has two bias sets where torch does. `unroll-4` and `remat` are ours with four steps per
turn of the compiled loop, and with pieces of 8 steps computed again in the backward pass.
`products` is what no step can beat: as many floating-point operations as the matrix products of the
LSTM, in products of large square matrices.

Temporary memory is what XLA's plan says (none for torch); peak memory is the process's largest
resident set (`ru_maxrss`) from its start to the step: Python, libraries, compilation, parameters
and activations, nothing subtracted. Compilation is tracing and compiling ahead of time. Processor
seconds count the threads of torch that wait for each other in a loop.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from machine import cores, facts, quartiles, ran_on

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'numpy')
RATE = 0.1
SYSTEMS = ('seqzoo', 'torch', 'flax')


@dataclass(frozen=True)
class Shape:
    """What is trained, and on `batch` rows of `length` steps."""

    layers: int = 2
    hidden: int = 512
    batch: int = 32
    length: int = 64

    def inputs(self) -> Any:
        """`[batch, length, hidden]` float32."""
        import numpy as np

        size = (self.batch, self.length, self.hidden)
        return np.random.default_rng(0).normal(size=size).astype(np.float32)

    def product_flops(self, gates: int) -> float:
        """Operations in the matrix products of a step: forward once, backward twice as many."""
        per_step = 2 * self.batch * 2 * self.hidden * gates * self.hidden
        return 3 * self.layers * self.length * per_step


@dataclass(frozen=True)
class Ready:
    """A system that can run: `step()` runs one step to its end and returns the loss."""

    step: Callable[[], float]
    compile_seconds: float = 0.0
    parameters: int = 0
    temporary_bytes: int = 0


# The systems. Each function imports what it needs: it runs alone in its process.


def seqzoo_system(kind: str, shape: Shape, **options: Any) -> Ready:
    """Our stack."""
    import jax.numpy as jnp

    sys.path.insert(0, str(ROOT))
    from seqzoo.layers.recurrent import RecurrentConfig, RecurrentStack
    from seqzoo.layers.recurrent_cells import GRU, LSTM

    cell = {'lstm': LSTM, 'gru': GRU}[kind](hidden_dim=shape.hidden, biases=2)
    config = RecurrentConfig(cell=cell, num_layers=shape.layers, **options)
    stack = RecurrentStack(config, jnp.float32)
    return _jax_step(stack, lambda result: result.features, shape)


def flax_system(kind: str, shape: Shape) -> Ready:
    """`nn.RNN` layers on top of each other."""
    from flax import linen as nn

    cell = {'lstm': nn.OptimizedLSTMCell, 'gru': nn.GRUCell}[kind]
    stack = nn.Sequential([nn.RNN(cell(shape.hidden)) for _ in range(shape.layers)])
    return _jax_step(stack, lambda result: result, shape)


def _jax_step(module: Any, output: Callable[[Any], Any], shape: Shape) -> Ready:
    import jax
    import jax.numpy as jnp
    from flax.core import meta

    x = jnp.asarray(shape.inputs())
    params = meta.unbox(jax.jit(module.init)(jax.random.key(0), x))

    def step(params: Any, x: Any) -> Any:
        def objective(params: Any) -> Any:
            return jnp.mean(jnp.square(output(module.apply(params, x))))

        loss, gradients = jax.value_and_grad(objective)(params)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), loss

    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(params, x).compile()
    seconds = time.perf_counter() - started

    def run() -> float:
        nonlocal params
        params, loss = compiled(params, x)
        jax.block_until_ready(params)
        return float(loss)

    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Ready(run, seconds, size, compiled.memory_analysis().temp_size_in_bytes)


def torch_system(kind: str, shape: Shape) -> Ready:
    """`torch.nn.LSTM` and `GRU`."""
    import torch

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    layer = {'lstm': torch.nn.LSTM, 'gru': torch.nn.GRU}[kind]
    module = layer(shape.hidden, shape.hidden, shape.layers, batch_first=True)
    optimizer = torch.optim.SGD(module.parameters(), RATE)
    x = torch.from_numpy(shape.inputs())

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = module(x)[0].square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    run()
    return Ready(run, parameters=sum(p.numel() for p in module.parameters()))


def products_system(shape: Shape) -> Ready:
    """The LSTM's matrix products alone, at the rate of large square ones in XLA."""
    import jax
    import jax.numpy as jnp

    side = 1024
    count = max(1, round(shape.product_flops(4) / (2 * side**3)))
    a, b = (jax.random.normal(key, (side, side)) for key in jax.random.split(jax.random.key(0)))
    product = jax.jit(jnp.matmul).lower(a, b).compile()

    def run() -> float:
        jax.block_until_ready([product(a, b) for _ in range(count)])
        return 0.0

    return Ready(run)


def build(name: str, shape: Shape) -> Ready:
    """The system of that name, ready to run: `lstm-seqzoo`, `gru-torch`, ..."""
    if name == 'products':
        return products_system(shape)
    kind, system = name.split('-', 1)
    return {
        'seqzoo': seqzoo_system,
        'seqzoo-unroll-4': lambda kind, shape: seqzoo_system(kind, shape, unroll=4),
        'seqzoo-remat': lambda kind, shape: seqzoo_system(kind, shape, remat_steps=8),
        'torch': torch_system,
        'flax': flax_system,
    }[system](kind, shape)


# The child's side: one JSON line when it is ready, and one for every line that it reads.


def child(name: str, shape: Shape) -> None:
    """Builds a system and runs a step for every line of standard input."""
    ready = build(name, shape)
    ready.step()
    about = {name: value for name, value in vars(ready).items() if name != 'step'}
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        started, processor = time.perf_counter(), time.process_time()
        loss = ready.step()
        run = {
            'seconds': time.perf_counter() - started,
            'processor_seconds': time.process_time() - processor,
            'loss': loss,
            'peak_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(run), flush=True)


# The parent's side


class Child:
    """A system in its own process."""

    def __init__(self, name: str, shape: Shape) -> None:
        command = [sys.executable, __file__, '--child', name, json.dumps(asdict(shape))]
        environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '2'}
        environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # compilation is measured
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.name, self.runs = name, []
        self.about = self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f'recurrent: the process of {self.name} ended; its error is above.')
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        """Lets the system run one step while all others wait."""
        assert self.process.stdin is not None
        self.process.stdin.write('step\n')
        self.process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure(names: list[str], shape: Shape, repeats: int) -> dict[str, Any]:
    """Steps in turn."""
    children = []
    for name in names:
        print(f'preparing {name}', file=sys.stderr)
        children.append(Child(name, shape))
    before = os.getloadavg()
    for _ in range(repeats):
        for one in children:
            one.runs.append(one.step())
    for one in children:
        one.close()
    return {
        'shape': asdict(shape),
        'product_flops': {'lstm': shape.product_flops(4), 'gru': shape.product_flops(3)},
        'repeats': repeats,
        'machine': facts(PACKAGES),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'systems': [_summary(one) for one in children],
    }


def _summary(one: Child) -> dict[str, Any]:
    result: dict[str, Any] = {'name': one.name, **one.about}
    for key in ('seconds', 'processor_seconds'):
        values = [run[key] for run in one.runs]
        low, median, high = quartiles(values)
        result[key] = {
            'median': median,
            'quartiles': [low, high],
            'least': min(values),
            'all': values,
        }
    result['peak_bytes'] = max(run['peak_bytes'] for run in one.runs)
    result['losses'] = [statistics.fmean(run['loss'] for run in one.runs), one.runs[-1]['loss']]
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    shape = result['shape']
    lines = [
        '# One training step of a recurrent stack',
        '',
        f'{shape["layers"]} layers x {shape["hidden"]}, batch {shape["batch"]} x '
        f'{shape["length"]} steps, float32, mean of squares, SGD.',
        '',
        f'{ran_on(result)} {result["repeats"]} interleaved rounds.',
        '',
        '| system | ms per step: median (quartiles) | least | processor ms: median | least '
        '| compile s | temporary MB | peak memory MB | parameters |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for one in result['systems']:
        wall, busy = one['seconds'], one['processor_seconds']
        low, high = (1e3 * x for x in wall['quartiles'])
        lines.append(
            f'| {one["name"]} | {1e3 * wall["median"]:.0f} ({low:.0f} to {high:.0f}) '
            f'| {1e3 * wall["least"]:.0f} | {1e3 * busy["median"]:.0f} | {1e3 * busy["least"]:.0f} '
            f'| {one["compile_seconds"]:.1f} | {one["temporary_bytes"] / 1e6:.0f} '
            f'| {one["peak_bytes"] / 1e6:.0f} | {one["parameters"]:,} |'
        )
    notes = (__doc__ or '').split('\n\n')
    return '\n'.join([*lines, '', notes[3], '', notes[4].strip(), ''])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').split('\n')[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for option, value in asdict(Shape()).items():
        parser.add_argument(f'--{option}', type=int, default=value)
    parser.add_argument('--repeats', type=int, default=15, help='counted rounds')
    parser.add_argument('--systems', nargs='+', default=None, help='only these')
    parser.add_argument('--output', type=pathlib.Path, default=RESULTS, help='folder for results')
    parser.add_argument('--child', nargs=2, metavar=('NAME', 'SHAPE'), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    """Measures, and writes what was found as JSON and Markdown."""
    given = arguments()
    if given.child:
        child(given.child[0], Shape(**json.loads(given.child[1])))
        return
    shape = Shape(**{name: getattr(given, name) for name in asdict(Shape())})
    names = given.systems or [
        *(f'{kind}-{system}' for kind in ('lstm', 'gru') for system in SYSTEMS),
        *('lstm-seqzoo-unroll-4', 'gru-seqzoo-unroll-4', 'lstm-seqzoo-remat', 'products'),
    ]
    result = measure(names, shape, given.repeats)
    given.output.mkdir(parents=True, exist_ok=True)
    text = table(result)
    (given.output / 'recurrent.json').write_text(json.dumps(result, indent=1) + '\n')
    (given.output / 'recurrent.md').write_text(text)
    print(text)


if __name__ == '__main__':
    main()
