"""Models in Hugging Face's file format, in and out, without its code and without torch.

A folder holds `config.json`, `model.safetensors` (or an index and shards) and the files of a
tokenizer. What kind of model it is `config.json` says (`model_type`); a `Family` for each kind
knows the configuration of ours that computes the same, and which tensor holds which parameters:

    marian                          models.transformer
    gpt2, openai-gpt, gpt_neox      models.gpt
    bert                            models.bert

Nothing is guessed: a field of `config.json` that nobody knows, and a tensor that is missing, left
over or of another shape, are refused by their names. Tensors are read one at a time into arrays
that stack the layers, so that a model takes its own memory and that of its largest tensor.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import meta

from seqzoo.data.kept_files import write_atomically
from seqzoo.errors import UserError
from seqzoo.interop.bert import Bert
from seqzoo.interop.family import Family, Imported, TensorNames
from seqzoo.interop.gpt import GPT1, GPT2, GPTNeoX
from seqzoo.interop.marian import Marian
from seqzoo.interop.safetensors_files import (
    SINGLE,
    TensorFolder,
    some_names,
    write_tensors,
)
from seqzoo.interop.tensor_links import (
    fill,
    flat,
    nested,
    our_shapes,
    their_shapes,
    their_tensor,
)
from seqzoo.interop.their_config import CONFIG, GENERATION, TheirConfig
from seqzoo.models.base import ModelConfig
from seqzoo.tasks.base import Decoding, Prepared

FAMILIES: tuple[Family, ...] = (Marian(), GPT2(), GPT1(), GPTNeoX(), Bert())


class HubFolder:
    """A folder in Hugging Face's layout, to be read.

    Attributes:
        folder: where it is.
        theirs: its `config.json`.
        family: what kind of model it holds.
    """

    def __init__(self, folder: str | Path):
        """Finds out what the folder holds.

        Raises:
            UserError: no model, or one of a kind that is not known.
        """
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f'there is no folder {folder}; give one with {CONFIG} and {SINGLE}')
        self.theirs = TheirConfig(self.folder)
        known = {family.model_type: family for family in FAMILIES}
        if self.theirs.model_type not in known:
            raise UserError(
                f'{self.theirs.file}: model_type is {self.theirs.model_type}; seqzoo reads '
                f'{", ".join(known)}'
            )
        self.family = known[self.theirs.model_type]

    def imported(self, tokenizer: Path | None = None) -> Imported:
        """Everything but the weights: architecture, task, tokenizer.

        Args:
            tokenizer: the folder with the files of the tokenizer, if it is another one.

        Raises:
            UserError: a file is missing or damaged, or asks for what we do not have, or the tensors
                are not those that are described.
        """
        # First, so that nothing is laid out by a size that no tensor has.
        self._names(TensorFolder(self.folder), self.model())
        return self.family.imported(self.theirs, tokenizer or self.folder)

    def model(self) -> ModelConfig:
        """The architecture alone."""
        return self.family.model(self.theirs)

    def params(self, model: ModelConfig) -> dict[str, Any]:
        """The parameters of `model`, as the module that it builds has them, float32.

        Args:
            model: `model()`, or the same with other ways to run or to store.

        Raises:
            UserError: the files are missing or damaged, or the tensors are not those of the model.
        """
        tensors = TensorFolder(self.folder)
        links, sizes = self.family.links(model), self.family.sizes(model)
        found = self._names(tensors, model)
        stored = _stored_shapes(model)
        assert our_shapes(links, sizes).keys() == stored.keys()
        ours = {path: _zeros(shape) for path, shape in stored.items()}
        fill(ours, links, sizes, lambda name: tensors.read(found[name]))
        return nested(ours)

    def _names(self, tensors: TensorFolder, model: ModelConfig) -> dict[str, str]:
        """The name in the files of every tensor of the model, of which only headers are read."""
        links = self.family.links(model)
        layers = max(link.layers or 0 for link in links)
        if layers > len(tensors.tensors):
            raise UserError(
                f'{self.theirs.file} describes {layers:,} layers, but there are only '
                f'{len(tensors.tensors):,} tensors; get the files again'
            )
        wanted = their_shapes(links, self.family.sizes(model))
        return _matched(tensors, wanted, self.family.names(model))


def export(
    folder: Path, model: ModelConfig, params: Any, prepared: Prepared, decode: Decoding
) -> list[str]:
    """Writes a folder that `transformers` loads with `from_pretrained`.

    Args:
        folder: made if it does not exist.
        model: the architecture.
        params: of the module that it builds, NumPy or JAX arrays, unboxed.
        prepared: holds the tokenizer.
        decode: how the run writes: its beams and banned tokens go along.

    Returns:
        The names of the files.

    Raises:
        UserError: the model or its tokenizer has no counterpart there.
    """
    family = family_of(model)
    config = family.config_json(model, prepared, decode)
    links, sizes = family.links(model), family.sizes(model)
    ours = flat(params)
    assert our_shapes(links, sizes).keys() == ours.keys()
    folder.mkdir(parents=True, exist_ok=True)
    family.write_tokenizer(prepared, folder)
    _write_json(folder / CONFIG, {**config, 'dtype': 'float32'})
    _write_json(folder / GENERATION, _generation(config, decode))
    write_tensors(folder / SINGLE, their_shapes(links, sizes), their_tensor(ours, links, sizes))
    return sorted(file.name for file in folder.iterdir())


def family_of(model: ModelConfig) -> Family:
    """The family that a configuration of ours belongs to.

    Raises:
        UserError: none; what stands in the way is named.
    """
    obstacles = []
    for family in FAMILIES:
        obstacle = family.obstacle(model)
        if obstacle is None:
            return family
        if obstacle:
            obstacles.append(obstacle)
    reason = '; '.join(obstacles) or 'none of its kinds of models that are known here is like it'
    raise UserError(f'{type(model).__name__} cannot be written for Hugging Face: {reason}.')


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 zeros that begin at a multiple of 64 bytes: JAX takes them over without a copy."""
    count = math.prod(shape)
    memory = np.zeros(count + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    return memory[start : start + count].reshape(shape)


def _stored_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    module, inputs = model.build(), model.example_inputs()
    abstract = jax.eval_shape(lambda key: module.init(key, *inputs), jax.random.key(0))
    return {path: leaf.shape for path, leaf in flat(meta.unbox(abstract['params'])).items()}


def _matched(
    tensors: TensorFolder, wanted: Mapping[str, tuple[int, ...]], names: TensorNames
) -> dict[str, str]:
    """The name in the files of every tensor that is wanted.

    Raises:
        UserError: tensors are missing, left over, or of other shapes.
    """
    found: dict[str, str] = {}
    extra: list[str] = []
    copies: dict[str, str] = {}
    for written in tensors.tensors:
        name = _known_name(written, wanted, names)
        if name in wanted and name not in found:
            found[name] = written
        elif name in names.tied:
            copies[written] = names.tied[name]
        elif not _is_buffer(written, names):
            extra.append(written)
    for written, name in sorted(copies.items()):
        found.setdefault(name, written)  # a file may hold any one of those that are tied
    missing = sorted(wanted.keys() - found.keys())
    shapes = {name: tensors.tensors[written].shape for name, written in found.items()}
    other = [
        f'{found[name]} is {list(shape)} and not {list(wanted[name])}'
        for name, shape in sorted(shapes.items())
        if shape != wanted[name]
    ]
    complaints = [
        f'it lacks {some_names(missing)}' if missing else '',
        f'it also holds {some_names(sorted(extra))}' if extra else '',
        some_names(other) if other else '',
    ]
    if any(complaints):
        raise UserError(
            f'{tensors.folder}: the tensors are not those of the model that {CONFIG} describes: '
            f'{"; ".join(filter(None, complaints))}'
        )
    for written, name in copies.items():
        _refuse_difference(tensors, written, found[name])
    return found


def _known_name(written: str, wanted: Mapping[str, Any], names: TensorNames) -> str:
    """The name under which the links know a tensor."""
    for old, new in names.renamed.items():
        written = written.replace(old, new)
    known = wanted.keys() | names.tied.keys()
    for name in (written, names.prefix + written):
        if name in known:
            return name
    return written


def _is_buffer(written: str, names: TensorNames) -> bool:
    bare = written.removeprefix(names.prefix)
    return any(re.fullmatch(pattern, bare) for pattern in names.buffers)


def _refuse_difference(tensors: TensorFolder, written: str, other: str) -> None:
    """Raises `UserError` if two tensors that are one in the model are not equal."""
    if written == other:
        return
    same_shape = tensors.tensors[written].shape == tensors.tensors[other].shape
    if not same_shape or not np.array_equal(tensors.read(written), tensors.read(other)):
        raise UserError(
            f'{tensors.folder}: {written} and {other} differ, but {CONFIG} ties them '
            '(tie_word_embeddings); the file or the field is wrong'
        )


def _generation(config: Mapping[str, Any], decode: Decoding) -> dict[str, Any]:
    """`generation_config.json`: special tokens and how the run writes."""
    found = {name: value for name, value in config.items() if name.endswith('_token_id')}
    if decode.method == 'beam':
        found |= {'num_beams': decode.beams, 'length_penalty': decode.length_penalty}
    if decode.banned:
        found['bad_words_ids'] = [[token] for token in decode.banned]
    return found


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(content, indent=2) + '\n').encode())
