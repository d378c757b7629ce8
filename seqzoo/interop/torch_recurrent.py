"""Weights of `torch.nn.RNN`, `LSTM` and `GRU`, in and out, as NumPy arrays under torch's names.

torch keeps `weight_ih_l{layer}` as `[gates * hidden, in]`, `weight_hh_l{layer}` as `[gates *
hidden, out]`, `bias_ih_l{layer}` and `bias_hh_l{layer}` as `[gates * hidden]`, the projection of an
LSTM as `weight_hr_l{layer}` `[out, hidden]`, and adds `_reverse` for the other direction. Gates
stand in our order: i, f, g, o and r, z, n, where z keeps the old state. Nothing here imports torch:
`{name: tensor.numpy() for name, tensor in module.state_dict().items()}` is what it reads.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from seqzoo.errors import UserError
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Cell, Elman

Params = dict[str, Any]


def import_torch(state: Mapping[str, np.ndarray], config: RecurrentConfig) -> Params:
    """The parameters of `RecurrentStack(config)` from those of a torch module.

    A configuration with one bias set gets the sum of torch's two where that is the same function
    (not for a GRU). A module without biases gives zeros.

    Args:
        state: torch's `state_dict`, as NumPy arrays.
        config: with the cell, depth, directions and widths of the torch module.

    Returns:
        `{'layer_0': ..., ...}`: what `apply({'params': ...})` expects, float32.

    Raises:
        UserError: an array is missing, is left over, or has another shape.
    """
    unread = set(state)

    def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in state:
            raise UserError(f'the torch weights have no {name}: check num_layers and directions')
        array = np.asarray(state[name], np.float32)
        if array.shape != shape:
            raise UserError(
                f'{name} has the shape {array.shape} but the configuration needs {shape}: '
                'check the cell and its widths'
            )
        unread.discard(name)
        return array

    params: Params = {}
    for path, suffix, cell in _directions(config):
        name = f'weight_ih{suffix}'
        if name not in state:
            raise UserError(f'the torch weights have no {name}: check num_layers and directions')
        gates, hidden = _gates(cell), cell.hidden_dim
        kernel = take(name, (gates * hidden, np.shape(state[name])[-1]))
        own = {
            'input_kernel': _to_ours(kernel, gates),
            'recurrent_kernel': _to_ours(
                take(f'weight_hh{suffix}', (gates * hidden, cell.output_dim)), gates
            ),
        }
        if f'bias_ih{suffix}' in state:
            pair = [take(f'bias_{kind}{suffix}', (gates * hidden,)) for kind in ('ih', 'hh')]
        else:
            pair = [np.zeros(gates * hidden, np.float32)] * 2
        own |= _biases_to_ours([bias.reshape(gates, hidden) for bias in pair], cell)
        if isinstance(cell, LSTM) and cell.projection_dim:
            shape = (cell.projection_dim, hidden)
            own['projection_kernel'] = take(f'weight_hr{suffix}', shape).T
        _put(params, path, {name: np.ascontiguousarray(x) for name, x in own.items()})
    if unread:
        raise UserError(
            f'the torch weights also hold {", ".join(sorted(unread)[:3])}, for which the '
            'configuration has no place: check num_layers and directions'
        )
    return params


def export_torch(params: Mapping[str, Any], config: RecurrentConfig) -> dict[str, np.ndarray]:
    """The `state_dict` of the torch module that computes what `RecurrentStack(config)` does.

    One bias set becomes torch's `bias_ih`, with zeros as `bias_hh`; no bias set gives a module with
    `bias=False`.

    Raises:
        UserError: torch has no such cell (peepholes, layer normalisation, clipping, a GRU that
            resets before the product), or no such stack (residual connections, unequal layers,
            summed directions, from the last step to the first alone).
    """
    state: dict[str, np.ndarray] = {}
    for path, suffix, cell in _directions(config):
        own = params
        for key in path:
            own = own[key]
        own = {name: np.asarray(x, np.float32) for name, x in own.items()}
        state[f'weight_ih{suffix}'] = _to_torch(own['input_kernel'])
        state[f'weight_hh{suffix}'] = _to_torch(own['recurrent_kernel'])
        if cell.biases:
            first = own['input_bias']
            second = own.get('recurrent_bias', np.zeros_like(first)).copy()
            if 'candidate_bias' in own:
                second[2] = own['candidate_bias']
            state[f'bias_ih{suffix}'] = first.reshape(-1).copy()
            state[f'bias_hh{suffix}'] = second.reshape(-1)
        if 'projection_kernel' in own:
            state[f'weight_hr{suffix}'] = np.ascontiguousarray(own['projection_kernel'].T)
    return state


def _directions(config: RecurrentConfig) -> Iterator[tuple[tuple[str, ...], str, Cell]]:
    """Where our parameters of a layer and direction lie, torch's suffix for it, and its cell."""
    _check(config)
    for i, cell in enumerate(config.cells):
        if config.is_bidirectional(i):
            yield (f'layer_{i}', 'forward'), f'_l{i}', cell
            yield (f'layer_{i}', 'backward'), f'_l{i}_reverse', cell
        else:
            yield (f'layer_{i}',), f'_l{i}', cell


def _check(config: RecurrentConfig) -> None:
    cell = config.cell
    reason = None
    if type(cell) not in (Elman, LSTM, GRU):
        reason = f'no cell like {type(cell).__name__}'
    elif isinstance(cell, LSTM) and (cell.peepholes or cell.layer_norm):
        reason = 'neither peepholes nor layer_norm in its LSTM'
    elif isinstance(cell, LSTM) and (cell.cell_clip, cell.projection_clip) != (None, None):
        reason = 'neither cell_clip nor projection_clip in its LSTM'
    elif isinstance(cell, GRU) and cell.reset == 'before':
        reason = "only reset='after' in its GRU"
    elif config.residual_from is not None:
        reason = 'no residual connections'
    elif len(set(config.hidden_dims or ())) > 1 or config.bidirectional_layers not in (
        None,
        config.num_layers,
    ):
        reason = 'only equal layers'
    elif config.directions == 'summed':
        reason = 'only concatenated directions'
    elif config.directions == 'backward':
        reason = "no stack that reads backward alone: turn the input around and set 'forward'"
    if reason:
        raise UserError(f'the weights cannot be exchanged with torch, which has {reason}.')


def _gates(cell: Cell) -> int:
    return {Elman: 1, LSTM: 4, GRU: 3}[type(cell)]


def _to_ours(weight: np.ndarray, gates: int) -> np.ndarray:
    """`[gates * hidden, in]` -> `[in, gates, hidden]`."""
    return weight.reshape(gates, -1, weight.shape[1]).transpose(2, 0, 1)


def _to_torch(kernel: np.ndarray) -> np.ndarray:
    """`[in, gates, hidden]` -> `[gates * hidden, in]`."""
    return np.ascontiguousarray(kernel.transpose(1, 2, 0).reshape(-1, kernel.shape[0]))


def _biases_to_ours(pair: list[np.ndarray], cell: Cell) -> Params:
    """Torch's two bias sets as those of the cell."""
    first, second = pair
    if cell.biases == 2:
        return {'input_bias': first, 'recurrent_bias': second}
    if cell.biases == 0:
        if first.any() or second.any():
            raise UserError('the torch weights hold biases but the cell has none: set biases to 2')
        return {}
    if not isinstance(cell, GRU):
        return {'input_bias': first + second}
    both = first.copy()
    both[:2] += second[:2]  # behind the reset gate the candidate's biases are no longer one sum
    return {'input_bias': both, 'candidate_bias': second[2]}


def _put(params: Params, path: tuple[str, ...], value: Params) -> None:
    for key in path[:-1]:
        params = params.setdefault(key, {})
    params[path[-1]] = value
