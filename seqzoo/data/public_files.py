"""Files of published data sets: known by the checksum of their content, fetched where that is
allowed.
"""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqzoo.data.text_files import open_text_file
from seqzoo.errors import UserError

if TYPE_CHECKING:
    from seqzoo.data.download import ProgressCallback

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PublicFile:
    """A file that configurations name, and how to come by it.

    Attributes:
        sha256: of its content, unpacked.
        url: where it lies; empty where no address is known from which it may be fetched.
        packed_sha256: of what lies there, if that is packed and `url` ends in `.gz`.
    """

    sha256: str
    url: str = ''
    packed_sha256: str = ''


def see_to(folder: Path, name: str, public: PublicFile, progress: 'ProgressCallback | None') -> str:
    """Sees to it that a published file is there, and says so.

    Args:
        folder: where it belongs.
        name: its name there, plain; it may lie there packed, with `.gz`.
        public: how to know it.
        progress: told about a download.

    Raises:
        UserError: what lies there is another file, or nothing does and it cannot be fetched.
    """
    from seqzoo.data.download import RemoteFile, download

    for path in (folder / name, folder / f'{name}.gz'):
        if path.is_file():
            digest = _sha256_unpacked(path)
            if digest != public.sha256:
                raise UserError(
                    f'{path} is not the published file (the sha256 of its content is {digest}, '
                    f'{public.sha256} is expected); put that one in its place'
                )
            return f'{path} is whole'
    if not public.url:
        raise UserError(
            f'{folder / name} is missing, and no address is known from which it may be fetched; '
            'put it there yourself, plain or packed as .gz: the sha256 of its content, unpacked, '
            f'is {public.sha256}'
        )
    remote = RemoteFile(
        url=public.url,
        filename=f'{name}.gz' if public.packed_sha256 else name,
        sha256=public.packed_sha256 or public.sha256,
    )
    return f'{download(remote, folder, progress=progress)} was fetched'


def _sha256_unpacked(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_text_file(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch or pack it again') from error
    return digest.hexdigest()
