"""Times training steps on a GPU: Transformer base and big, LSTM and GPT-2 small, beside torch.

Each model is trained by `seqzoo` as `seqzoo train` does it, and by torch: SDPA attention, cuDNN's
LSTM, fused Adam, plain and under `torch.compile`. All in bfloat16 with float32 parameters, on the
same shapes of full batches of random tokens, in one run: every system lives in a process of its
own, and the processes of a model take turns, so that whatever else the machine does falls on all.

    python benchmarks/gpu_models.py
    python benchmarks/gpu_models.py --models gpt2 --systems seqzoo torch --repeats 10
    python benchmarks/gpu_models.py --toy --repeats 2           # does it run at all, on a processor

Tokens are target tokens. MFU divides the operations of the matrix products of the model, three
times the forward pass and nothing twice, by the dense bfloat16 peak of the data sheet; it is the
same number of operations for all systems of a model, counted in `seqzoo`'s traced step. Dropout
stands in different places: the papers, and `seqzoo`, have it on the output of each sublayer and on
the embeddings; torch's Transformer also drops attention weights and hidden units. It is left out
everywhere, so that all compute the same.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from machine import facts, quartiles, ran_on

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'numpy')
SYSTEMS = ('seqzoo', 'torch', 'torch-compile')
STEPS = 5  # of a round


@dataclass(frozen=True)
class Model:
    """A model and the batches that it is trained on.

    Attributes:
        kind: `'transformer'` (encoder and decoder), `'lstm'` or `'gpt'`.
        layers, width, hidden, heads, vocab: its sizes; layers of each side.
        rows, length: of a batch, on each side.
    """

    kind: str
    layers: int
    width: int
    hidden: int
    heads: int
    vocab: int
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """Target tokens of a batch."""
        return self.rows * self.length


# Published sizes; the batches fill a GPU of 80 GB by about half.
MODELS = {
    'transformer-base': Model('transformer', 6, 512, 2048, 8, 37_000, 256, 64),
    'transformer-big': Model('transformer', 6, 1024, 4096, 16, 37_000, 128, 64),
    'lstm': Model('lstm', 2, 1500, 1500, 1, 10_000, 256, 64),
    'gpt2-small': Model('gpt', 12, 768, 3072, 12, 50_257, 16, 1024),
}
TOY = {'layers': 1, 'width': 16, 'hidden': 32, 'heads': 2, 'vocab': 64, 'rows': 2, 'length': 8}


def experiment(model: Model) -> Any:
    """The model as `seqzoo` trains it."""
    from seqzoo.data.batching import BatchConfig
    from seqzoo.experiment import Experiment
    from seqzoo.layers.recurrent import RecurrentConfig
    from seqzoo.layers.recurrent_cells import LSTM
    from seqzoo.models.gpt import GPTConfig
    from seqzoo.models.recurrent_lm import RecurrentLMConfig
    from seqzoo.models.transformer import TransformerConfig
    from seqzoo.optimization.optimizers import Adam
    from seqzoo.optimization.schedules import Constant
    from seqzoo.parallel.mesh import MeshConfig
    from seqzoo.tasks.language_modeling import LanguageModeling
    from seqzoo.tasks.translation import Translation

    sizes: dict[str, Any] = {'vocab_size': model.vocab, 'dtype': 'bfloat16'}
    deep = {'num_layers': model.layers, 'embed_dim': model.width, 'mlp_dim': model.hidden}
    deep |= {'num_heads': model.heads, 'dropout_rate': 0.0, 'max_length': model.length}
    if model.kind == 'transformer':
        del deep['max_length']
        config: Any = TransformerConfig(**sizes, **deep)
        task: Any = Translation(label_smoothing=0.0)
    elif model.kind == 'gpt':
        config, task = GPTConfig(**sizes, **deep), LanguageModeling(order='windows')
    else:
        cells = RecurrentConfig(cell=LSTM(hidden_dim=model.width), num_layers=model.layers)
        config = RecurrentLMConfig(**sizes, embed_dim=model.width, layers=cells)
        task = LanguageModeling()
    buckets = {'buckets': (model.length,)} if model.kind == 'transformer' else {}
    return Experiment(
        model=config,
        task=task,
        optimizer=Adam(),
        schedule=Constant(rate=1e-4),
        batch=BatchConfig(tokens=model.tokens, max_length=model.length, **buckets),
        mesh=MeshConfig(data=1),
    )


# The systems. Each runs alone in its process: it says what it is, then times rounds.


def seqzoo_system(model: Model) -> tuple[dict[str, Any], Callable[[], float]]:
    """The step of `seqzoo train`."""
    sys.path.insert(0, str(ROOT))
    import jax

    from seqzoo.analysis.flops import peak_flops_per_second
    from seqzoo.analysis.throughput import Case, Settings, Source

    device = jax.devices()[0]
    case = Case(
        *(experiment(model), [device], Source(None, 'synthetic'), Settings(steps=STEPS)),
        *('jit', ('strong',), model.tokens),
    )
    case.warm_up()
    about = case.about(peak_flops_per_second(device.device_kind))
    parameters = jax.eval_shape(case.program.factory.abstract).params
    return {
        'device': device.device_kind,
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        'tokens_per_step': about['tokens_per_round'] / STEPS,
        'flops_per_step': about['flops_per_round'] / STEPS,
        'peak': about['peak_flops_per_device'],
        'compile_seconds': about['compile_seconds'],
        'peak_bytes': about['peak_bytes_of_a_device'],
    }, case.round


def torch_system(
    model: Model, *, compiled: bool = False
) -> tuple[dict[str, Any], Callable[[], float]]:
    """The same model in torch."""
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high')
    network = _torch_network(model).to(device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4, (0.9, 0.98), fused=True)
    size = (STEPS, 2, model.rows, model.length + 1)
    tokens = torch.randint(4, model.vocab, size, device=device)

    def loss_of(source: Any, target: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            logits = network(source[:, :-1], target[:, :-1])
        wanted = target[:, 1:].flatten()
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted)

    loss = torch.compile(loss_of) if compiled else loss_of

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(*batch).backward()
        optimizer.step()

    def round_() -> float:
        started = time.perf_counter()
        for batch in tokens:
            step(batch)
        if device == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first, again = round_(), round_()
    return {
        'device': torch.cuda.get_device_name() if device == 'cuda' else 'cpu',
        'parameters': sum(p.numel() for p in network.parameters()),
        'tokens_per_step': float(model.tokens),
        'compile_seconds': max(first - again, 0.0),
        'peak_bytes': torch.cuda.max_memory_allocated() if device == 'cuda' else None,
    }, round_


def _torch_network(model: Model) -> Any:
    import torch
    from torch import nn

    class Network(nn.Module):
        """Embeddings, the model, and logits from the table of embeddings."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(model.vocab, model.width)
            self.places = nn.Embedding(model.length, model.width)
            common: dict[str, Any] = {
                'dropout': 0.0,
                'batch_first': True,
                'norm_first': model.kind == 'gpt',
                'activation': nn.GELU('tanh') if model.kind == 'gpt' else 'relu',
            }
            if model.kind == 'transformer':
                self.body: Any = nn.Transformer(
                    *(model.width, model.heads, model.layers, model.layers, model.hidden), **common
                )
            elif model.kind == 'gpt':
                layer = nn.TransformerEncoderLayer(model.width, model.heads, model.hidden, **common)
                norm = nn.LayerNorm(model.width)
                self.body = nn.TransformerEncoder(layer, model.layers, norm)
            else:
                self.body = nn.LSTM(model.width, model.width, model.layers, batch_first=True)
                self.logits = nn.Linear(model.width, model.vocab)

        def embed(self, tokens: Any) -> Any:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            return self.table(tokens) + self.places(places)

        def forward(self, source: Any, target: Any) -> Any:
            if model.kind == 'lstm':
                return self.logits(self.body(self.table(target))[0])
            mask = nn.Transformer.generate_square_subsequent_mask(
                target.shape[1], device=target.device
            )
            if model.kind == 'gpt':
                x = self.body(self.embed(target), mask=mask, is_causal=True)
            else:
                options = {'tgt_mask': mask, 'tgt_is_causal': True}
                x = self.body(self.embed(source), self.embed(target), **options)
            return x @ self.table.weight.T

    return Network()


def child(name: str, model: Model) -> None:
    """One line when it is ready, and one for every line that it reads."""
    systems = {
        'seqzoo': seqzoo_system,
        'torch': torch_system,
        'torch-compile': lambda model: torch_system(model, compiled=True),
    }
    about, run = systems[name](model)
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        print(json.dumps(run()), flush=True)


# The parent's side


class Child:
    """A system in its own process."""

    def __init__(self, name: str, model: Model) -> None:
        words = [sys.executable, __file__, '--child', name, json.dumps(vars(model))]
        pipe = subprocess.PIPE
        # All systems of a model share the memory of the device.
        environment = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
        environment.pop('JAX_COMPILATION_CACHE_DIR', None)  # compilation is measured
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.name, self.rounds = name, []
        self.about = self._hear()

    def round(self) -> None:
        """Lets it work while all others wait."""
        assert self.process.stdin is not None
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        self.rounds.append(self._hear())

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _hear(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line[:1] in '{0123456789':
                return json.loads(line)
        raise SystemExit(f'gpu_models: the process of {self.name} ended; its error stands above.')


def measure(name: str, model: Model, systems: list[str], repeats: int) -> list[dict[str, Any]]:
    """Rounds of all systems in turn."""
    print(f'preparing {name}', file=sys.stderr)
    children = [Child(system, model) for system in systems]
    for number in range(repeats):
        for one in children:
            one.round()
        print(f'{name}: round {number + 1} of {repeats}', file=sys.stderr)
    for one in children:
        one.close()
    flops = next((one.about['flops_per_step'] for one in children if one.name == 'seqzoo'), None)
    peak = next((one.about['peak'] for one in children if one.name == 'seqzoo'), None)
    return [_summary(name, model, one, flops, peak) for one in children]


def _summary(
    name: str, model: Model, one: Child, flops: float | None, peak: float | None
) -> dict[str, Any]:
    low, median, high = quartiles([seconds / STEPS for seconds in one.rounds])
    return {
        'model': name,
        'system': one.name,
        'sizes': vars(model),
        **one.about,
        'seconds_per_step': {'median': median, 'quartiles': [low, high]},
        'tokens_per_second': one.about['tokens_per_step'] / median,
        'mfu': flops / (median * peak) if flops and peak else None,
        'all_seconds': one.rounds,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        '# Training steps on one GPU',
        '',
        f'{result["results"][0]["device"]}. {ran_on(result)} bfloat16; {result["repeats"]} '
        f'interleaved rounds of {STEPS} steps.',
        '',
        '| model | system | parameters | batch | ms per step: median (quartiles) | tokens/s | MFU '
        '| first round s | peak memory GB |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for one in result['results']:
        s, sizes = one['seconds_per_step'], one['sizes']
        low, high = s['quartiles']
        mfu = 'peak unknown' if one['mfu'] is None else f'{one["mfu"]:.1%}'
        memory = '' if one['peak_bytes'] is None else f'{one["peak_bytes"] / 1e9:.1f}'
        lines.append(
            f'| {one["model"]} | {one["system"]} | {one["parameters"]:,} '
            f'| {sizes["rows"]} x {sizes["length"]} '
            f'| {1e3 * s["median"]:.1f} ({1e3 * low:.1f} to {1e3 * high:.1f}) '
            f'| {one["tokens_per_second"]:,.0f} | {mfu} | {one["compile_seconds"]:.1f} '
            f'| {memory} |'
        )
    notes = (__doc__ or '').split('\n\n')
    return '\n'.join([*lines, '', notes[1], '', notes[3].strip(), ''])


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--systems', nargs='+', choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument('--repeats', type=int, default=15, help='rounds (default: 15)')
    parser.add_argument('--toy', action='store_true', help='sizes at which only the workings show')
    parser.add_argument('--output', type=pathlib.Path, default=RESULTS, help='folder for results')
    parser.add_argument('--name', default='gpu_models', help='name of the two files of results')
    return parser.parse_args(argv)


def main() -> None:
    """Measures, and writes what was found as JSON and Markdown."""
    given = arguments()
    before, results = os.getloadavg(), []
    for name in given.models:
        model = replace(MODELS[name], **TOY) if given.toy else MODELS[name]
        results += measure(name, model, given.systems, given.repeats)
    result = {
        'repeats': given.repeats,
        'machine': facts(PACKAGES),
        'load_average': {'before': before, 'after': os.getloadavg()},
        'results': results,
    }
    given.output.mkdir(parents=True, exist_ok=True)
    text = table(result)
    (given.output / f'{given.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    (given.output / f'{given.name}.md').write_text(text)
    print(text)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--child']:
        child(sys.argv[2], Model(**json.loads(sys.argv[3])))
    else:
        main()
