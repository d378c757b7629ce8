"""Operations of whole steps: counted in a traced program, set against a device's peak, and printed.

The formulas by part live in `seqzoo.models.flops`. Here a program is counted as JAX traces it,
which works for any function and, unlike XLA's cost analysis, charges the body of a scan as often as
it runs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from seqzoo.models.base import ModelConfig
from seqzoo.models.flops import Flops, matmul_flops


def traced_flops(function: Callable[..., Any], *args: Any) -> int:
    """Matrix-product and convolution operations of `function(*args)`, traced and never run.

    `args` may be arrays or `jax.ShapeDtypeStruct`s. A scan is charged for every iteration; of a
    `cond` the dearest branch counts; a `while` loop, whose iterations no one knows beforehand, is
    charged once. Fused kernels (Pallas, cuDNN) are opaque and count 0.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def forward_flops(model: ModelConfig, batch: int, length: int) -> int:
    """Operations of one forward pass of a model without a formula, logits included, by tracing."""
    module = model.build()

    def forward(module: Any, *inputs: Any) -> Any:
        output = module(*inputs)
        return module.unembed(output.features) if hasattr(module, 'unembed') else output

    small = model.example_inputs()
    variables = jax.eval_shape(lambda key: module.init(key, *small), jax.random.key(0))
    inputs = jax.eval_shape(lambda: model.example_inputs(batch, length))
    return traced_flops(lambda v, x: module.apply(v, *x, method=forward), variables, inputs)


def model_flops_utilization(
    flops_per_step: int, seconds_per_step: float, *, num_devices: int, peak_per_device: float
) -> float:
    """The share of the devices' peak spent on the model's own operations, 0 to 1.

    Give it `Flops.training()` without rematerialisation: recomputed layers are work, but not
    progress (Chowdhery et al. 2022, appendix B).
    """
    return flops_per_step / (seconds_per_step * num_devices * peak_per_device)


def training_flops(model: ModelConfig, rows: int, length: int) -> Flops | int:
    """Operations of a training step without rematerialisation over `rows` of `length`, by the
    model's formula; where it has none, three times those of its traced forward pass, as a number.
    """
    parts = model.flops(rows, length)
    return 3 * forward_flops(model, rows, length) if parts is None else parts


def render_flops(flops: Flops, *, remat: bool = False) -> str:
    """Parts, forward pass and training step as plain text, with shares; zero parts are left out."""
    total = max(flops.forward, 1)
    lines = [
        (name.replace('_', ' '), humanize(count), f'{100 * count / total:.1f} %')
        for name, count in flops.parts.items()
        if count
    ]
    lines.append(('forward', humanize(flops.forward), '100.0 %'))
    training = flops.training(remat=remat)
    name = 'training step, with rematerialisation' if remat else 'training step'
    lines.append((name, humanize(training), f'{100 * training / total:.1f} %'))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
        f'{part:<{widths[0]}}  {count:>{widths[1]}}  {share:>{widths[2]}}'
        for part, count, share in lines
    )


def humanize(count: int) -> str:
    """Operations with a unit and three digits or more: `'1.42 TFLOP'`."""
    power = min((len(str(count)) - 1) // 3, 6)
    unit = ('', 'k', 'M', 'G', 'T', 'P', 'E')[power]
    return f'{count / 1000**power:.{2 if power else 0}f} {unit}FLOP'


def _jaxpr_flops(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == 'dot_general':
        (contract, _), (batch, _) = parameters['dimension_numbers']
        left, right = map(_shape, equation.invars)
        inner = math.prod(left[axis] for axis in contract)
        shared = math.prod(left[axis] for axis in batch)
        rows = math.prod(left) // max(inner * shared, 1)
        columns = math.prod(right) // max(inner * shared, 1)
        return shared * matmul_flops(rows, columns, inner)
    if name == 'conv_general_dilated':
        kernel = _shape(equation.invars[1])
        features = kernel[parameters['dimension_numbers'].rhs_spec[0]]
        # Every output scalar is one product over the taps and the input channels of its group.
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // max(features, 1)
    if name == 'pallas_call':
        return 0
    inside = [_jaxpr_flops(jaxpr) for jaxpr in _programs_in(parameters)]
    if name == 'cond':
        return max(inside)
    return sum(inside) * (parameters['length'] if name == 'scan' else 1)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _programs_in(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Every program that an equation holds: bodies of scans, branches, jitted functions."""
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
