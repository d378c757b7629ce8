"""The systems that `train_step.py` times, and the process that each of them runs in.

Run as a program (`train_step_systems.py NAME SHAPE CHECKOUT`) it prepares one system, says so in a
line of JSON, and then runs one step for every line that it reads.
"""

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from machine import cores

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMOOTHING, DROPOUT = 0.1, 0.1
ADAM = {'b1': 0.9, 'b2': 0.98, 'eps': 1e-9}
RATE = 1e-4


@dataclass(frozen=True)
class Shape:
    """What is trained, and on `batch` rows of `length` source and `length` target tokens."""

    layers: int = 6
    embed_dim: int = 512
    mlp_dim: int = 2048
    heads: int = 8
    vocab: int = 8192
    batch: int = 32
    length: int = 32

    def tokens(self) -> Any:
        """`[2, batch, length]` int32 ids: sources and targets; 0 to 3 are control symbols."""
        import numpy as np

        size = (2, self.batch, self.length)
        return np.random.default_rng(0).integers(4, self.vocab, size, dtype=np.int32)

    @property
    def product_flops(self) -> float:
        """Operations in the matrix products of a step: forward once, backward twice as many."""
        d, tokens = self.embed_dim, self.batch * self.length
        attention = 2 * tokens * (4 * d * d + 2 * d * self.length)
        mlp = 2 * tokens * 2 * d * self.mlp_dim
        return 3 * (self.layers * (3 * attention + 2 * mlp) + 2 * tokens * d * self.vocab)


@dataclass(frozen=True)
class Ready:
    """A system that can run: `step()` runs one step to its end and returns the loss."""

    step: Callable[[], float]
    compile_seconds: float
    parameters: int


# The systems. Each function imports what it needs: it runs alone in its process.


def seqzoo_system(shape: Shape, *, everywhere: bool = False) -> Ready:
    """Our step as `seqzoo train` runs it; `everywhere` drops in torch's places too."""
    import jax
    import numpy as np

    sys.path.insert(0, str(ROOT))
    from seqzoo.models.transformer import TransformerConfig
    from seqzoo.optimization.optimizers import Adam
    from seqzoo.optimization.schedules import Constant
    from seqzoo.parallel.compile import compile_train_step
    from seqzoo.parallel.mesh import MeshConfig, build_mesh
    from seqzoo.tasks.translation import Translation
    from seqzoo.training.state import StateFactory
    from seqzoo.training.step import make_train_step

    config = TransformerConfig(
        vocab_size=shape.vocab,
        num_layers=shape.layers,
        embed_dim=shape.embed_dim,
        mlp_dim=shape.mlp_dim,
        num_heads=shape.heads,
        dropout_rate=DROPOUT,
        attention_dropout_rate=DROPOUT if everywhere else 0.0,
        mlp_dropout_rate=DROPOUT if everywhere else 0.0,
    )
    mesh, model = build_mesh(MeshConfig(data=1), jax.devices()[:1]), config.build()
    transformation = Adam(beta1=ADAM['b1'], beta2=ADAM['b2'], epsilon=ADAM['eps']).build()
    factory = StateFactory(config, model, transformation, mesh, seed=0)
    source, target = shape.tokens()
    ones = np.ones_like(source)
    positions = np.broadcast_to(np.arange(shape.length, dtype=np.int32), source.shape)
    batch = {
        'source': source,
        'target': target,
        'source_segments': ones,
        'target_segments': ones,
        'source_positions': positions,
        'target_positions': positions,
        'rows': np.arange(shape.batch, dtype=np.int32),
    }
    state = factory.create()
    schedule = Constant(rate=RATE).build(1)
    task = Translation(label_smoothing=SMOOTHING)
    step = compile_train_step(
        make_train_step(task, model, transformation, schedule), mesh, factory.shardings()
    )
    started = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    seconds = time.perf_counter() - started

    def run() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(state)
        return float(metrics['loss'].total / metrics['loss'].weight)

    return Ready(run, seconds, sum(x.size for x in jax.tree.leaves(state.params)))


def flax_system(shape: Shape, checkout: str) -> Ready:
    """The model of flax's wmt example (pre-norm) in a plain step: no metrics besides the loss."""
    import jax
    import jax.numpy as jnp
    import optax

    sys.path.insert(0, checkout)
    import models  # pyright: ignore[reportMissingImports]

    config = models.TransformerConfig(
        vocab_size=shape.vocab,
        output_vocab_size=shape.vocab,
        share_embeddings=True,
        logits_via_embedding=True,
        emb_dim=shape.embed_dim,
        num_heads=shape.heads,
        num_layers=shape.layers,
        qkv_dim=shape.embed_dim,
        mlp_dim=shape.mlp_dim,
        max_len=256,
        dropout_rate=DROPOUT,
        attention_dropout_rate=DROPOUT,
    )
    source, target = shape.tokens()
    model = models.Transformer(config)
    keys = dict(zip(('params', 'dropout'), jax.random.split(jax.random.key(0)), strict=True))
    params = jax.jit(model.init)(keys, source, target)['params']
    optimizer = optax.adam(RATE, **ADAM)
    state = (params, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32))

    def step(state: Any, source: Any, target: Any) -> Any:
        params, moments, number = state
        key = jax.random.fold_in(keys['dropout'], number)

        def objective(params: Any) -> Any:
            logits = model.apply({'params': params}, source, target, rngs={'dropout': key})
            other = SMOOTHING / (shape.vocab - 1)  # the example smooths over the other classes
            wanted = jax.nn.one_hot(target, shape.vocab) * (1 - SMOOTHING - other) + other
            return -jnp.mean(jnp.sum(wanted * jax.nn.log_softmax(logits), axis=-1))

        loss, grads = jax.value_and_grad(objective)(params)
        updates, moments = optimizer.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments, number + 1), loss

    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, source, target).compile()
    seconds = time.perf_counter() - started

    def run() -> float:
        nonlocal state
        state, loss = compiled(state, source, target)
        jax.block_until_ready(state)
        return float(loss)

    return Ready(run, seconds, sum(x.size for x in jax.tree.leaves(params)))


def torch_system(shape: Shape, *, bfloat16: bool = False) -> Ready:
    """`torch.nn.Transformer` with one table for embeddings and logits, and the fused Adam."""
    import torch
    from torch import nn

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    table = nn.Embedding(shape.vocab, shape.embed_dim)
    nn.init.normal_(table.weight, std=shape.embed_dim**-0.5)
    layers, dropout = (
        nn.Transformer(
            shape.embed_dim,
            shape.heads,
            shape.layers,
            shape.layers,
            shape.mlp_dim,
            dropout=DROPOUT,
            batch_first=True,
        ),
        nn.Dropout(DROPOUT),
    )
    parameters = [*table.parameters(), *layers.parameters()]
    betas = (ADAM['b1'], ADAM['b2'])
    optimizer = torch.optim.Adam(parameters, RATE, betas, ADAM['eps'], fused=True)
    loss_of = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    source, target = (torch.from_numpy(x).long() for x in shape.tokens())
    read = torch.nn.functional.pad(target[:, :-1], (1, 0))
    causal = nn.Transformer.generate_square_subsequent_mask(shape.length)
    angle = torch.arange(shape.length)[:, None] / 10000 ** (
        torch.arange(0, shape.embed_dim, 2) / shape.embed_dim
    )
    position = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, : shape.embed_dim]

    def embed(tokens: Any) -> Any:
        return dropout(table(tokens) * shape.embed_dim**0.5 + position)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
            x = layers(embed(source), embed(read), tgt_mask=causal, tgt_is_causal=True)
            logits = x @ table.weight.T
        loss = loss_of(logits.float().flatten(0, 1), target.flatten())
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    first, later = (_timed(run)[0] for _ in range(2))
    return Ready(run, max(first - later, 0.0), sum(x.numel() for x in parameters))


def products_system(shape: Shape) -> Ready:
    """The matrix products alone, at the rate of large square ones in XLA."""
    import jax
    import jax.numpy as jnp

    side = 1024
    count = max(1, round(shape.product_flops / (2 * side**3)))
    a, b = (jax.random.normal(key, (side, side)) for key in jax.random.split(jax.random.key(0)))
    started = time.perf_counter()
    product = jax.jit(jnp.matmul).lower(a, b).compile()
    seconds = time.perf_counter() - started

    def run() -> float:
        jax.block_until_ready([product(a, b) for _ in range(count)])
        return 0.0

    return Ready(run, seconds, 0)


def build(name: str, shape: Shape, checkout: str) -> Ready:
    """The system of that name, ready to run."""
    if name == 'flax-wmt':
        return flax_system(shape, checkout)
    return {
        'seqzoo': seqzoo_system,
        'seqzoo-all-dropout': lambda shape: seqzoo_system(shape, everywhere=True),
        'torch': torch_system,
        'torch-bf16': lambda shape: torch_system(shape, bfloat16=True),
        'products': products_system,
    }[name](shape)


# The child's side: one JSON line when it is ready, and one for every line that it reads.


def child(name: str, shape: Shape, checkout: str) -> None:
    """Builds a system and runs a step for every line of standard input."""
    ready = build(name, shape, checkout)
    _say({'compile_seconds': ready.compile_seconds, 'parameters': ready.parameters})
    for _ in sys.stdin:
        seconds, processor_seconds, loss = _timed(ready.step)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        _say(
            {
                'seconds': seconds,
                'processor_seconds': processor_seconds,
                'loss': loss,
                'peak_bytes': peak,
            }
        )


def _say(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


def _timed(function: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds on the clock, seconds of all threads, and the result."""
    started, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - started, time.process_time() - processor, result


if __name__ == '__main__':
    child(sys.argv[1], Shape(**json.loads(sys.argv[2])), sys.argv[3])
