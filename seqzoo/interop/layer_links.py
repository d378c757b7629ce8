"""Links that many families share: affine maps and layer normalisation, under their names."""

from collections.abc import Sequence

from seqzoo.interop.tensor_links import Link


def affine(
    name: str,
    paths: str | Sequence[str],
    kernel: str,
    bias: str | None,
    layers: int | None = None,
) -> list[Link]:
    """`name.weight` and `name.bias`.

    Args:
        name: of their module; `{}` is the number of the layer.
        paths: of our module, or of several that are one there.
        kernel: pattern of the matrix.
        bias: pattern of the bias; `None`: there is none.
        layers: how many there are, if ours are stacked.
    """
    ours = (paths,) if isinstance(paths, str) else tuple(paths)
    found = [Link(f'{name}.weight', tuple(f'{path}/kernel' for path in ours), kernel, layers)]
    if bias is not None:
        found.append(Link(f'{name}.bias', tuple(f'{path}/bias' for path in ours), bias, layers))
    return found


def norm(name: str, path: str, layers: int | None = None) -> list[Link]:
    """`name.weight` and `name.bias` of layer normalisation over the residual stream."""
    return [
        Link(f'{name}.weight', (f'{path}/scale',), 'embed -> embed', layers),
        Link(f'{name}.bias', (f'{path}/bias',), 'embed -> embed', layers),
    ]


def table(name: str, path: str, rows: str) -> Link:
    """`name.weight`, one vector of the residual stream for each of `rows`."""
    return Link(f'{name}.weight', (path,), f'{rows} embed -> {rows} embed')


HEADS = '(heads kv) embed -> embed heads kv'  # the kernel of queries, keys or values
FROM_HEADS = 'embed (heads kv) -> heads kv embed'  # that of what they are joined by
HEADS_BIAS = '(heads kv) -> heads kv'
UP, DOWN = 'mlp embed -> embed mlp', 'embed mlp -> mlp embed'
STREAM_BIAS = 'embed -> embed'
MLP_BIAS = 'mlp -> mlp'
