"""The tensors of a folder in Hugging Face's layout: one file, or an index and its shards.

`safetensors` checks a file when it is opened: its header, and that the tensors fill the file to its
last byte. The numbers are then read by ourselves, a tensor at a time, with plain reads: through the
library's memory map every page that was touched would stay resident, and a model would take its
memory twice. Files are written a tensor at a time for the same reason.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from seqzoo.errors import UserError

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_PICKLED = ('pytorch_model.bin', 'pytorch_model.bin.index.json')
_FLOATS: dict[str, Any] = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': ml_dtypes.bfloat16,
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: that holds it.
        dtype: as the format names it: `'F32'`, `'BF16'`, ...
        shape: of the tensor.
        begin: the byte of the file at which it starts.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


class TensorFolder:
    """The tensors of a folder, by name; none is read before it is asked for.

    Attributes:
        folder: where they lie.
        tensors: what there is.
    """

    def __init__(self, folder: Path):
        """Opens and checks the files.

        Raises:
            UserError: there are none, one is damaged, or they are in torch's pickle format.
        """
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        if (folder / SINGLE).is_file():
            self.tensors = _header(folder / SINGLE)
        elif (folder / INDEX).is_file():
            self._read_index(folder / INDEX)
        else:
            raise UserError(_nothing_to_read(folder))

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32.

        Raises:
            UserError: it holds no floating-point numbers, or some that are not finite.
        """
        stored = self.tensors[name]
        if stored.dtype not in _FLOATS:
            raise UserError(
                f'{stored.file}: {name} is of type {stored.dtype}, which holds no weights that can '
                f'be read ({", ".join(_FLOATS)} can); save it as F32'
            )
        array = np.empty(stored.shape, _FLOATS[stored.dtype])
        with stored.file.open('rb', buffering=0) as file:
            file.seek(stored.begin)
            rest = _bytes_of(array)
            while len(rest) and (read := file.readinto(rest)):  # pyright: ignore[reportArgumentType]
                rest = rest[read:]
        if len(rest):
            raise UserError(f'{stored.file} ends inside {name}; get the file again')
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
            raise UserError(
                f'{stored.file}: {name} holds numbers that are not finite; get the file again'
            )
        return array

    def _read_index(self, index: Path) -> None:
        try:
            weight_map = json.loads(index.read_bytes())['weight_map']
            wanted = {str(name): str(file) for name, file in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f'{index} is damaged ({error}); get the file again') from error
        for shard in sorted(set(wanted.values())):
            file = index.parent / shard
            if Path(shard).name != shard:
                raise UserError(f'{index} names {shard}, which is no file beside it')
            if not file.is_file():
                raise UserError(f'{file} is missing, and {index} names it; get the file too')
            self.tensors |= _header(file)
        if lost := sorted(name for name in wanted if name not in self.tensors):
            raise UserError(f'{index} names {some_names(lost)}, which none of its files holds')
        if extra := sorted(name for name in self.tensors if name not in wanted):
            raise UserError(f'{index} does not name {some_names(extra)}, which its files hold')


def _bytes_of(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array, to be read or written."""
    content: Any = array.reshape(-1).view(np.uint8)
    return memoryview(content)


def _header(file: Path) -> dict[str, StoredTensor]:
    import safetensors

    try:
        with safetensors.safe_open(file, framework='numpy'):
            pass  # checks the header, and that the file is as long as it says
        with file.open('rb') as opened:
            size = int.from_bytes(opened.read(8), 'little')
            header = json.loads(opened.read(size))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(
            f'{file} is cut short or no safetensors file ({reason}); get it again'
        ) from error
    header.pop('__metadata__', None)
    return {
        name: StoredTensor(
            file, entry['dtype'], tuple(entry['shape']), 8 + size + entry['data_offsets'][0]
        )
        for name, entry in header.items()
    }


def _nothing_to_read(folder: Path) -> str:
    if not folder.is_dir():
        return f'there is no folder {folder}; give one with config.json and {SINGLE}'
    if pickled := [name for name in _PICKLED if (folder / name).exists()]:
        return (
            f"{folder / pickled[0]} is in torch's pickle format, which can run any code and is not "
            'read; convert it where torch and transformers are installed: AutoModel'
            '.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), with the class that config.json '
            'names under architectures in place of AutoModel, and take NEW_FOLDER'
        )
    return f'{folder} has no {SINGLE} and no {INDEX}: is it the folder of a Hugging Face model?'


def write_tensors(
    file: Path, shapes: Mapping[str, Sequence[int]], read: Callable[[str], np.ndarray]
) -> None:
    """Writes float32 tensors; a reader meets the file whole or not at all.

    Args:
        file: is replaced if it exists.
        shapes: of all tensors, by name.
        read: gives a tensor when its turn has come.
    """
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}  # what transformers looks for
    end = 0
    for name in sorted(shapes):
        begin, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {
            'dtype': 'F32',
            'shape': list(shapes[name]),
            'data_offsets': [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)  # the numbers begin at a multiple of eight

    def parts() -> Iterator[Any]:
        yield len(text).to_bytes(8, 'little')
        yield text
        for name in sorted(shapes):
            array = np.ascontiguousarray(read(name), '<f4')
            assert array.shape == tuple(shapes[name]), (name, array.shape, shapes[name])
            yield _bytes_of(array)

    descriptor, temporary = tempfile.mkstemp(prefix=f'.{file.name}-', dir=file.parent)
    try:
        with os.fdopen(descriptor, 'wb') as opened:
            for part in parts():
                opened.write(part)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def some_names(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + more
