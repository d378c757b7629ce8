"""Continuations as they are generated: groups of steps on the device, and the text between them.

A group is one call of a compiled `lax.while_loop`: there is no way to the host and back for each
token, and nothing compiles twice for prompts of like length. In how many groups a text grows does
not change it, so what is shown in the end is what `continuation.continue_prompts` returns.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from seqzoo.data.encoding import TextTokenizer
from seqzoo.decoding import loop
from seqzoo.decoding.greedy import choose_greedily
from seqzoo.decoding.loop import Unfinished
from seqzoo.decoding.sampling import sampler
from seqzoo.errors import UserError
from seqzoo.parallel.compile import compile_in_place
from seqzoo.parallel.mesh import row_shards
from seqzoo.tasks.base import Batch, Decoding, Prediction, Runtime
from seqzoo.tasks.continuation import (
    Prompt,
    bucket_of,
    continued_text,
    encode_prompts,
    read_hypotheses,
)
from seqzoo.tasks.sequence_search import (
    continuing_step,
    for_decoding,
    read_prompts,
    row_keys,
    without_tokens,
)

_PAD = 0


@dataclass(frozen=True)
class Growing:
    """A continuation while it grows.

    Attributes:
        record: number of the prompt, from 0.
        text: what is certain so far; later ones of the record begin with it.
        prediction: the whole, once nothing more comes; `None` before.
    """

    record: int
    text: str
    prediction: Prediction | None = None


def stream_prompts(
    runtime: Runtime,
    tokenizer: TextTokenizer,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    steps: int = 8,
) -> Iterator[Growing]:
    """Continues prompts one after the other, saying how far each is every `steps` tokens.

    Raises:
        UserError: as `continue_prompts` does, or the search knows its text only at the end.
    """
    if decoding.method == 'beam' or decoding.n_best > 1:
        raise UserError(
            'several hypotheses are compared only at the end: to see a text grow, set '
            '--decode.method greedy or sample, and --decode.n-best 1.'
        )
    encoded = encode_prompts(runtime.model, tokenizer, prompts, decoding.extra_length)
    stop = tokenizer.stop_id if decoding.stop_at_end else None
    program = _program(runtime, decoding, tokenizer.vocab_size, stop, steps)
    variables = program.ready(runtime.variables)
    for number, prompt in enumerate(encoded):
        batch = _batch(runtime, prompt, number)
        unfinished, shown, count = program.begin(variables, batch), '', 0
        while True:
            unfinished = program.advance(variables, batch, unfinished)
            # What the host needs; the cache stays where it is.
            tokens, lengths, done = jax.device_get(
                (unfinished.tokens[0, 0], unfinished.lengths[0, 0], unfinished.done[0, 0])
            )
            if done:
                break
            text = _certain(tokenizer, prompt, tokens[:lengths])
            if lengths > count and text.startswith(shown):
                yield Growing(number, text)
                shown = text
            count = int(lengths)
        decoded = jax.device_get(loop.result(unfinished))
        whole = read_hypotheses(decoded, 0, tokenizer, prompt, decoding, stop)
        yield Growing(number, whole.text, whole)


@dataclass(frozen=True)
class _Program:
    """What runs on the devices.

    Attributes:
        ready: variables as decoding reads them.
        begin: (these, batch) -> nothing decided yet.
        advance: (these, batch, unfinished) -> the same after a group of steps; its memory is used
            again.
    """

    ready: Callable[..., Any]
    begin: Callable[..., Unfinished]
    advance: Callable[..., Unfinished]


def _program(
    runtime: Runtime, decoding: Decoding, vocab_size: int, stop: int | None, steps: int
) -> _Program:
    name = ('stream', decoding, vocab_size, stop, steps)
    if name not in runtime.programs:
        runtime.programs[name] = _made(runtime, decoding, vocab_size, stop, steps)  # type: ignore[assignment]
    return runtime.programs[name]  # type: ignore[return-value]


def _made(
    runtime: Runtime, decoding: Decoding, vocab_size: int, stop: int | None, steps: int
) -> _Program:
    model: nn.Module = runtime.model

    def begin(variables: Any, batch: Batch) -> Unfinished:
        cache, last = read_prompts(model, decoding, variables, batch)
        rows, room = len(last), decoding.extra_length
        return loop.begin(cache, batch=rows, bos=last, beams=1, max_length=room, pad=_PAD)

    def advance(variables: Any, batch: Batch, unfinished: Unfinished) -> Unfinished:
        choose = choose_greedily
        if decoding.method == 'sample':
            choose = sampler(
                row_keys(decoding, batch['rows']),
                len(batch['rows']),
                temperature=decoding.temperature,
                top_k=decoding.top_k,
                top_p=decoding.top_p,
            )
        step = continuing_step(model, decoding, variables)
        if decoding.banned:
            step = without_tokens(step, decoding.banned)
        return loop.advance(
            choose,
            step,
            unfinished,
            eos=stop,
            limits=None,
            force_eos=False,
            vocab_size=vocab_size,
            pad=_PAD,
            steps=steps,
        )

    return _Program(
        compile_in_place(lambda variables: for_decoding(model, variables), runtime.mesh),
        compile_in_place(begin, runtime.mesh, gather=True),
        compile_in_place(advance, runtime.mesh, gather=True, donate=2),
    )


def _batch(runtime: Runtime, prompt: Prompt, number: int) -> Batch:
    """One prompt, in as many rows as the mesh splits."""
    length, rows = len(prompt.tokens), row_shards(runtime.mesh)
    filling = (0, bucket_of(runtime.model, length) - length)
    tokens, segments = (np.pad(x, filling) for x in (prompt.tokens, np.ones(length, np.int32)))
    return {
        'tokens': jnp.asarray(np.tile(tokens, (rows, 1)), jnp.int32),
        'segments': jnp.asarray(np.tile(segments, (rows, 1)), jnp.int32),
        'rows': jnp.full((rows,), number, jnp.int32),
    }


def _certain(tokenizer: TextTokenizer, prompt: Prompt, ids: np.ndarray) -> str:
    """As much of the text of `ids` as what comes next will not change.

    The last token may be joined to the next one, and bytes of a character that is not complete are
    shown as replacement characters.
    """
    texts = (continued_text(tokenizer, prompt, some) for some in (ids, ids[:-1]))
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    return ''.join(character for character, _ in alike).rstrip('�')
