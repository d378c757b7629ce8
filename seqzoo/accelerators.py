"""Which accelerators the machine has, asked of the machine and not of jax.

`make install` runs this file by its path, before anything is installed, to choose what to install;
`seqzoo doctor` compares the answer with what jax uses. Hence only the standard library here.
"""

import glob
import os
import pathlib
import shutil
import subprocess
from dataclasses import dataclass

# Google Cloud sets at least one of these on a TPU machine. Newer drivers show the chips through the
# general vfio interface, so that the device files alone do not say what is behind them.
_TPU_ENVIRONMENT = (
    'TPU_ACCELERATOR_TYPE',
    'TPU_NAME',
    'TPU_WORKER_ID',
    'TPU_CHIPS_PER_HOST_BOUNDS',
)
_GOOGLE_PCI_VENDOR = '0x1ae0'


@dataclass(frozen=True)
class Accelerator:
    """What was found, and by what.

    Attributes:
        kind: `'cuda'`, `'tpu'`, or `'cpu'` where there is none.
        evidence: What gave it away, for a person to read.
    """

    kind: str
    evidence: str


def find(root: pathlib.Path = pathlib.Path('/')) -> Accelerator:
    """The accelerator of this machine; a TPU is looked for first, since such machines have no GPU.

    Args:
        root: The folder in which `dev`, `proc` and `sys` lie; another one in tests.
    """
    # A folder /dev/accel belongs to other makers; TPU chips are files, accel0 and so on.
    chips = sorted(glob.glob(str(root / 'dev' / 'accel[0-9]*')))
    if chips:
        return Accelerator('tpu', f'{len(chips)} TPU device files, the first is {chips[0]}')
    groups = sorted(glob.glob(str(root / 'dev' / 'vfio' / '[0-9]*')))
    if groups and (any(map(os.environ.get, _TPU_ENVIRONMENT)) or _has_google_device(root)):
        return Accelerator('tpu', f'{len(groups)} vfio device files on a TPU machine')
    if root == pathlib.Path('/') and (listing := _nvidia_smi()):
        return Accelerator('cuda', f'nvidia-smi lists {listing[0]}')
    cards = sorted(glob.glob(str(root / 'dev' / 'nvidia[0-9]*')))
    if cards:
        return Accelerator('cuda', f'{len(cards)} NVIDIA device files, the first is {cards[0]}')
    return Accelerator('cpu', 'no TPU and no NVIDIA device files')


def _has_google_device(root: pathlib.Path) -> bool:
    vendors = glob.glob(str(root / 'sys' / 'bus' / 'pci' / 'devices' / '*' / 'vendor'))
    return any(pathlib.Path(path).read_text().strip() == _GOOGLE_PCI_VENDOR for path in vendors)


def _nvidia_smi() -> list[str]:
    """The GPUs that the driver's own tool lists, `GPU 0: NAME`; none where it fails."""
    tool = shutil.which('nvidia-smi')
    if tool is None:
        return []
    try:
        result = subprocess.run(
            [tool, '-L'], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return [line.split(' (UUID')[0] for line in lines if line.startswith('GPU ')]


if __name__ == '__main__':
    print(find().kind)
