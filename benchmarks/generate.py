"""How fast a GPT continues prompts, beside `generate` of Hugging Face transformers in torch.

    python benchmarks/generate.py
    python benchmarks/generate.py --num-layers 2 --new-tokens 16 --repeats 2    # quick

Both have GPT-2's architecture, random weights in float32 and no end of text, read a batch of
prompts and take the most probable token again and again. Every system runs in a process of its own
that stays alive; the processes take turns, so that a change in the load of the machine meets all of
them. Times are those of whole calls, prompts included; the first, which compiles or warms up, is
shown apart. The ratio is that of each pair of calls that follow each other. Memory is the largest
resident set of the process.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import facts, quartiles, ran_on
from turns import Worker, serve, take_turns

HERE = Path(__file__).resolve().parent
PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'transformers', 'numpy')
OURS, THEIRS = 'seqzoo', 'transformers'


@dataclass(frozen=True)
class Shapes:
    """What is generated, by a model of which size."""

    prompt_length: int = 128
    new_tokens: int = 256
    vocab_size: int = 50_257
    num_layers: int = 12
    embed_dim: int = 768
    num_heads: int = 12

    def prompts(self, batch: int) -> np.ndarray:
        """`[batch, prompt_length]` int32 ids."""
        shape = (batch, self.prompt_length)
        return np.random.default_rng(0).integers(0, self.vocab_size, shape, np.int32)


def seqzoo(shapes: Shapes, batch: int, cores: int) -> Callable[[], int]:
    """Ours, as `seqzoo predict` runs it."""
    import jax
    import jax.numpy as jnp
    from flax.core import meta

    from seqzoo.models.gpt import GPTConfig
    from seqzoo.tasks.base import Decoding
    from seqzoo.tasks.sequence_search import causal_search

    del cores  # XLA takes those that the process has
    model = GPTConfig(
        vocab_size=shapes.vocab_size,
        num_layers=shapes.num_layers,
        embed_dim=shapes.embed_dim,
        num_heads=shapes.num_heads,
        max_length=shapes.prompt_length + shapes.new_tokens,
    ).build()
    tokens = jnp.asarray(shapes.prompts(batch))
    drawn = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens[:, :2]))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32)), drawn
    )
    decoding = Decoding(method='greedy', extra_length=shapes.new_tokens, stop_at_end=False)
    search = jax.jit(causal_search(model, decoding, shapes.vocab_size, None))
    prompts = {'tokens': tokens, 'segments': jnp.ones_like(tokens), 'rows': jnp.arange(batch)}

    def run() -> int:
        return int(np.sum(np.asarray(search(variables, prompts).lengths)))

    return run


def transformers(shapes: Shapes, batch: int, cores: int) -> Callable[[], int]:
    """`generate` of GPT-2 in torch."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    logging.set_verbosity_error()
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=shapes.vocab_size,
        n_positions=shapes.prompt_length + shapes.new_tokens,
        n_embd=shapes.embed_dim,
        n_layer=shapes.num_layers,
        n_head=shapes.num_heads,
        bos_token_id=0,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    tokens = torch.from_numpy(shapes.prompts(batch).astype(np.int64))

    def run() -> int:
        with torch.inference_mode():
            found = model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=shapes.new_tokens,
                pad_token_id=0,
            )
        return int(found[:, shapes.prompt_length :].numel())

    return run


SYSTEMS: dict[str, Callable[[Shapes, int, int], Callable[[], int]]] = {
    OURS: seqzoo,
    THEIRS: transformers,
}


def main() -> None:
    """Parses the command line and runs the benchmark, or serves as one of its processes."""
    options = parse_options()
    shapes = Shapes(**{x.name: getattr(options, x.name) for x in dataclasses.fields(Shapes)})
    if options.worker:
        serve(SYSTEMS[options.worker](shapes, options.batches[0], options.cores))
        return
    report: dict[str, Any] = {
        'shapes': dataclasses.asdict(shapes),
        'machine': facts(PACKAGES),
        'load_average': {'before': os.getloadavg()},
        'results': [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for batch in options.batches:
        report['results'].append(compare(options, shapes, batch))
        report['load_average']['after'] = os.getloadavg()
        options.output.with_suffix('.json').write_text(json.dumps(report, indent=2) + '\n')
        options.output.with_suffix('.md').write_text(markdown(report))
    print(markdown(report))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    for field in dataclasses.fields(Shapes):
        name = '--' + field.name.replace('_', '-')
        parser.add_argument(name, type=int, default=field.default)
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 8])
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--cores', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--output', type=Path, default=HERE / 'results' / 'generate')
    parser.add_argument('--worker', choices=list(SYSTEMS), help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(options: argparse.Namespace, shapes: Shapes, batch: int) -> dict[str, Any]:
    """Both systems at one size of batch, in turns."""
    words = ['--batches', str(batch), '--cores', str(options.cores)]
    for name, size in dataclasses.asdict(shapes).items():
        words += ['--' + name.replace('_', '-'), str(size)]
    workers = [Worker(system, 'generate.py', words, options.cores) for system in SYSTEMS]
    turns = take_turns(workers, options.repeats, f'batch {batch}')
    if turns.failed:
        raise SystemExit('; '.join(turns.failed.values()))
    expected, found = batch * shapes.new_tokens, {}
    for system, answers in turns.repeats.items():
        if any(answer['tokens'] != expected for answer in answers):
            raise SystemExit(f'{system}: {[x["tokens"] for x in answers]} tokens, not {expected}')
        rates = [expected / answer['seconds'] for answer in answers]
        found[system] = {
            'tokens_per_second': dict(
                zip(('low', 'median', 'high'), quartiles(rates), strict=True)
            ),
            'seconds': [answer['seconds'] for answer in answers],
            'median_cpu_seconds': float(np.median([x['cpu_seconds'] for x in answers])),
            'first_call_seconds': turns.first[system],
            'peak_bytes': max(answer['peak_bytes'] for answer in answers),
        }
    pairs = zip(found[THEIRS]['seconds'], found[OURS]['seconds'], strict=True)
    ratio = quartiles([theirs / ours for theirs, ours in pairs])
    names = ('low', 'median', 'high')
    return {'batch': batch, 'systems': found, 'ratio': dict(zip(names, ratio, strict=True))}


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    shapes = report['shapes']
    lines = [
        f'# Continuing prompts of {shapes["prompt_length"]} tokens by {shapes["new_tokens"]}',
        '',
        f'GPT-2, {shapes["num_layers"]} layers of {shapes["embed_dim"]}, {shapes["num_heads"]} '
        f'heads, vocabulary {shapes["vocab_size"]:,}, random weights, float32, greedy.',
        '',
        ran_on(report),
        '',
        '| system | batch | tokens/s, median (quartiles) | times transformers | CPU s '
        '| first call s | peak MB |',
        '|---|---|---|---|---|---|---|',
    ]
    for result in report['results']:
        for system, x in result['systems'].items():
            ratio, rate = result['ratio'], x['tokens_per_second']
            times = f'{ratio["median"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f})'
            lines.append(
                f'| {system} | {result["batch"]} | {rate["median"]:.1f} ({rate["low"]:.1f} to '
                f'{rate["high"]:.1f}) | {times if system == OURS else "1"} | '
                f'{x["median_cpu_seconds"]:.1f} | {x["first_call_seconds"]:.1f} | '
                f'{x["peak_bytes"] / 1e6:.0f} |'
            )
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
