"""What the loops of a program run over, written into its text.

A collective outside every loop is paid for once a step, one in a loop over layers once a layer, and
one in a loop over time makes every step of it wait for the slowest device. XLA keeps of a loop
where in the traced program it came from; the names here are what a reader of compiled programs
(`analysis.program_text`) looks for there.
"""

import contextlib
from typing import Literal, get_args

import jax

Kind = Literal['layer_scan', 'time_scan', 'decode_loop', 'accumulation_scan', 'ring_loop']
KINDS: tuple[Kind, ...] = get_args(Kind)


def loop_over(kind: Kind) -> contextlib.AbstractContextManager[object]:
    """Loops that are traced in this context are of that kind."""
    return jax.named_scope(kind)
