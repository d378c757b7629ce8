"""What accelerators can do, as their makers publish it: peaks that nobody exceeds.

Sources. TPUs: the "System architecture" pages of Cloud TPU for v4, v5e, v5p, v6e and TPU7x;
Jouppi et al. 2023 (arXiv:2304.01433), table 4, for the links of v3 and v4, and Jouppi et al. 2020,
"A domain-specific supercomputer for training deep neural networks", table 3, for v3. The memory
that a program may use, a little less than the chip has, is what the compiler (libtpu 0.0.42.1)
names when a program needs more. GPUs: NVIDIA's data sheets, dense products, no sparsity.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One TPU chip. It may show up as several devices, each with an equal share.

    Attributes:
        name: as in the name of a topology, `v5e`.
        kind: as its devices report it; the longest that is part of `device_kind` counts.
        peak: dense bfloat16 operations per second.
        hbm: bytes of main memory that programs may use.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second through one link in one direction.
        axes: of the torus: 2 or 3; a chip has two links along each.
        devices: how many JAX devices the compiler makes of one chip.
        compiled_as: how libtpu calls the way in which its cores work together; `''`: it has one.
        most: chips of the largest slice.
        host: chips of one host, along each axis.
    """

    name: str
    kind: str
    peak: float
    hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    axes: int
    devices: int = 1
    compiled_as: str = ''
    most: int = 256
    host: tuple[int, int, int] = (2, 2, 1)


CHIPS = (
    Chip(
        name='v3', kind='TPU v3', peak=123e12, hbm=2 * 15.48 * GIB, hbm_bandwidth=900e9,
        link_bandwidth=70e9, axes=2, devices=2, most=1024,
    ),
    Chip(
        name='v4', kind='TPU v4', peak=275e12, hbm=2 * 15.25 * GIB, hbm_bandwidth=1200e9,
        link_bandwidth=50e9, axes=3, compiled_as='megacore', most=4096,
    ),
    Chip(
        name='v5e', kind='TPU v5 lite', peak=197e12, hbm=15.75 * GIB, hbm_bandwidth=819e9,
        link_bandwidth=50e9, axes=2,
    ),
    Chip(
        name='v5p', kind='TPU v5', peak=459e12, hbm=95.74 * GIB, hbm_bandwidth=2765e9,
        link_bandwidth=100e9, axes=3, most=8960,
    ),
    Chip(
        name='v6e', kind='TPU v6 lite', peak=918e12, hbm=31.25 * GIB, hbm_bandwidth=1638e9,
        link_bandwidth=100e9, axes=2,
    ),
    Chip(
        name='7x', kind='TPU7x', peak=2307e12, hbm=2 * 94.75 * GIB, hbm_bandwidth=7380e9,
        link_bandwidth=100e9, axes=3, devices=2, most=9216,
    ),
)  # fmt: skip

# Dense bfloat16 operations per second of one device, by a part of its `device_kind`; the first one
# counts. A v2, v3 or 7x chip shows up as two devices.
PEAK_FLOPS_PER_SECOND: tuple[tuple[str, float], ...] = (
    ('TPU v2', 22.5e12),
    ('TPU v4', 275e12),
    ('TPU v5e', 197e12),
    ('TPU v6e', 918e12),
    *((chip.kind, chip.peak / chip.devices) for chip in sorted(CHIPS, key=lambda c: -len(c.kind))),
    ('H200', 989e12),
    ('H100 PCIe', 756e12),
    ('H100', 989e12),
    ('A100', 312e12),
)


def peak_flops_per_second(device_kind: str) -> float | None:
    """Dense bfloat16 peak of one device, by `jax.Device.device_kind`; `None` if not known."""
    for name, peak in PEAK_FLOPS_PER_SECOND:
        if name in device_kind:
            return peak
    return None
