"""What a family of models tells of itself, to be exchanged with Hugging Face."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from seqzoo.data.batching import BatchConfig
from seqzoo.interop.tensor_links import Link, Sizes
from seqzoo.interop.their_config import TheirConfig
from seqzoo.models.base import ModelConfig
from seqzoo.tasks.base import Decoding, Prepared, Task


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What the files beside the weights say.

    Attributes:
        model: the architecture.
        task: what it is for.
        batch: lengths that it can read.
        decode: how it writes.
        prepared: the tokenizer.
        notes: sentences about what was not taken over.
    """

    model: ModelConfig
    task: Task
    batch: BatchConfig
    decode: Decoding
    prepared: Prepared
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """How the tensors of a family are called, beyond the links.

    Attributes:
        prefix: begins the names of most tensors; files of a bare encoder or decoder leave it out.
        tied: by name, the tensor that holds the same numbers where both are written.
        buffers: patterns of names that hold no parameters; they match the whole name, without
            prefix.
        renamed: parts of names, as old files have them, and what they are called now.
    """

    prefix: str = ''
    tied: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


class Family(abc.ABC):
    """One kind of model of Hugging Face's and the configuration of ours that is the same function.

    Attributes:
        model_type: as `config.json` has it.
    """

    model_type: ClassVar[str]

    # From theirs to ours

    @abc.abstractmethod
    def model(self, theirs: TheirConfig) -> ModelConfig:
        """The configuration that computes the same.

        Raises:
            UserError: none does; the field is named.
        """

    @abc.abstractmethod
    def imported(self, theirs: TheirConfig, folder: Path) -> Imported:
        """Everything but the weights.

        Args:
            theirs: `config.json`.
            folder: holds the files of the tokenizer.

        Raises:
            UserError: a file is missing or damaged, or asks for what we do not have.
        """

    # Both ways

    @abc.abstractmethod
    def links(self, model: Any) -> Sequence[Link]:
        """Which tensor holds which parameters."""

    @abc.abstractmethod
    def sizes(self, model: Any) -> Sizes:
        """Of the axes that the links name."""

    @abc.abstractmethod
    def names(self, model: Any) -> TensorNames:
        """How the tensors are called."""

    # From ours to theirs

    @abc.abstractmethod
    def obstacle(self, model: ModelConfig) -> str | None:
        """Why a configuration of ours is not of this family; `None` if it is; `''` if it is of
        another kind altogether.
        """

    @abc.abstractmethod
    def config_json(self, model: Any, prepared: Prepared, decode: Decoding) -> dict[str, Any]:
        """`config.json`; the settings of the search go into `generation_config.json`."""

    @abc.abstractmethod
    def write_tokenizer(self, prepared: Prepared, folder: Path) -> None:
        """The files of the tokenizer.

        Raises:
            UserError: they have no counterpart.
        """
