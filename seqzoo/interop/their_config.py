"""Hugging Face's `config.json`: every field is read, required to be what we compute, or known to
change nothing. One that is none of these is refused: it might change what the model computes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.errors import UserError
from seqzoo.interop.safetensors_files import TensorFolder
from seqzoo.layers.feedforward import Activation

CONFIG, GENERATION = 'config.json', 'generation_config.json'

# Non-linearities by their names; the first of those for one of ours is what is written.
ACTIVATIONS: Mapping[str, Activation] = {
    'relu': 'relu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu_fast': 'gelu_tanh',
    'silu': 'silu',
    'swish': 'silu',
}

# Names, bookkeeping, training, and heads that the weights do not have.
_SAYS_NOTHING = frozenset(
    {
        '_attn_implementation_autoset',
        '_from_model_config',
        '_name_or_path',
        '_num_labels',
        'architectures',
        'attn_implementation',
        'chunk_size_feed_forward',
        'classif_dropout',
        'classifier_dropout',
        'directionality',
        'dtype',
        'extra_pos_embeddings',
        'finetuning_task',
        'gradient_checkpointing',
        'id2label',
        'init_std',
        'initializer_range',
        'label2id',
        'language',
        'length_penalty',
        'max_length',
        'min_length',
        'model_type',
        'n_ctx',
        'n_special',
        'num_beams',
        'num_labels',
        'output_attentions',
        'output_hidden_states',
        'output_past',
        'pooler_fc_size',
        'pooler_num_attention_heads',
        'pooler_num_fc_layers',
        'pooler_size_per_head',
        'pooler_type',
        'predict_special_tokens',
        'prefix',
        'problem_type',
        'return_dict',
        'summary_activation',
        'summary_first_dropout',
        'summary_proj_to_labels',
        'summary_type',
        'summary_use_proj',
        'task_specific_params',
        'tokenizer_class',
        'torch_dtype',
        'torchscript',
        'transformers_version',
        'use_bfloat16',
        'use_cache',
    }
)

# What may be said only in these ways, for any model.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    'add_cross_attention': (False,),
    'cross_attention_hidden_size': (None,),
    'is_decoder': (False,),
    'pruned_heads': ({},),
    'quantization_config': (None,),
    'tie_encoder_decoder': (False,),
}

# Settings of a search that `seqzoo predict` has no counterpart of, and what does nothing.
_SEARCH: Mapping[str, tuple[Any, ...]] = {
    'begin_suppress_tokens': (None,),
    'diversity_penalty': (0.0, None),
    'do_sample': (False, None),
    'encoder_no_repeat_ngram_size': (0, None),
    'exponential_decay_length_penalty': (None,),
    'forced_bos_token_id': (None,),
    'min_length': (0, None),
    'no_repeat_ngram_size': (0, None),
    'num_beam_groups': (1, None),
    'remove_invalid_values': (False, None),
    'repetition_penalty': (1.0, None),
    'suppress_tokens': (None,),
}

_NO_FIELD = object()


class TheirConfig:
    """The fields of `config.json`, and of `generation_config.json` where there is one.

    Attributes:
        folder: where they lie.
        file: `config.json`.
        fields: of it.
    """

    def __init__(self, folder: Path):
        """Reads the files.

        Raises:
            UserError: `config.json` is missing or damaged.
        """
        self.folder = folder
        self.file = folder / CONFIG
        self.fields = _read(self.file)
        generation = folder / GENERATION
        self._generation = _read(generation) if generation.is_file() else {}
        self._seen: set[str] = set()

    @property
    def model_type(self) -> str:
        """The kind of model."""
        return str(self.fields.get('model_type'))

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number from 1 on; without a default the field must be there."""
        value = self._take(name, default)
        if type(value) is not int or value < 1:
            raise self.refuse(name, 'a whole number from 1 on')
        return value

    def open_size(self, name: str) -> int | None:
        """A whole number from 1 on, or none."""
        return None if self._take(name, None) is None else self.size(name)

    def number(self, name: str, default: float) -> float:
        """Any number, which is finite."""
        value = self._take(name, default)
        if not _is_number(value):
            raise self.refuse(name, 'a number')
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, 'true or false')
        return value

    def choice(self, name: str, known: Mapping[str, Any], default: str) -> Any:
        """What one of several names stands for."""
        value = self._take(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.refuse(name, f'one of {", ".join(known)}')
        return known[value]

    def part(self, name: str, known: Sequence[str]) -> dict[str, Any]:
        """An object of numbers of which every field is known, or an empty one."""
        value = self._take(name, None) or {}
        if not isinstance(value, dict) or value.get('rope_type', 'default') != 'default':
            raise self.refuse(name, 'rope_type "default"')
        found = {field: number for field, number in value.items() if field != 'rope_type'}
        if not all(map(_is_number, found.values())):
            raise self.refuse(name, 'numbers in it')
        if unknown := [field for field in found if field not in known]:
            raise self.refuse(name, f'{", ".join(known)} in it, and not {unknown[0]}')
        return found

    def only(self, name: str, *allowed: Any) -> None:
        """A field that, where it is given, must say what our model does."""
        value = self._take(name, allowed[0])
        if value not in allowed:
            raise self.refuse(name, ' or '.join(map(json.dumps, allowed)))

    def token(
        self, name: str, size: int, default: int | None = None, *, beyond_is_none: bool = False
    ) -> int | None:
        """The id of a special token, which `generation_config.json` may state too.

        Args:
            name: of the field.
            size: of the vocabulary.
            default: where neither file states it.
            beyond_is_none: an id beyond the vocabulary, as small models have it that kept a
                default, is none.
        """
        value = self._take(name, default)
        value = self._generation.get(name, value)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is None or (beyond_is_none and type(value) is int and value >= size):
            return None
        if type(value) is not int or not 0 <= value < size:
            raise self.refuse(name, f'the id of one token, from 0 to {size - 1}', value)
        return value

    def search_setting(self, name: str, default: Any) -> Any:
        """A setting of the search: `generation_config.json` has it, or `config.json`."""
        self._seen.add(name)
        value = self._generation.get(name)
        value = self.fields.get(name) if value is None else value
        return default if value is None else value

    def length_penalty(self) -> float:
        """The power of the length by which a search divides."""
        value = self.search_setting('length_penalty', 1.0)
        if not _is_number(value):
            raise self.refuse('length_penalty', 'a number', value)
        return float(value)

    def beams(self) -> int:
        """How many hypotheses a search keeps, from `num_beams`."""
        value = self.search_setting('num_beams', 1)
        if type(value) is not int or value < 1:
            raise self.refuse('num_beams', 'a whole number from 1 on', value)
        return value

    def banned_tokens(self, size: int) -> tuple[int, ...]:
        """The tokens that are never written, from `bad_words_ids`."""
        found = self.search_setting('bad_words_ids', [])
        if not isinstance(found, list) or not all(
            isinstance(word, list) and len(word) == 1 and type(word[0]) is int for word in found
        ):
            raise self.refuse('bad_words_ids', 'single tokens, [[1], [2]]', found)
        if wrong := [word[0] for word in found if not 0 <= word[0] < size]:
            raise self.refuse('bad_words_ids', f'ids from 0 to {size - 1}', wrong[0])
        return tuple(word[0] for word in found)

    def architecture(self, *known: str) -> str:
        """Whose weights these are: one of `known`, which is said in full.

        Raises:
            UserError: another one, or none.
        """
        found = self.fields.get('architectures') or [None]
        if not isinstance(found, list) or found[0] not in known:
            wanted = ' or '.join(f'["{name}"]' for name in known)
            raise self.refuse('architectures', wanted)
        return found[0]

    def holds(self, tensor: str) -> bool:
        """Whether the weights have a tensor of this name: a file may hold more than it says."""
        return tensor in TensorFolder(self.folder).tensors

    def finish(self) -> list[str]:
        """Accounts for the rest.

        Returns:
            Sentences about settings of the search that are not taken over.

        Raises:
            UserError: a field is unknown, or asks for what the model does not do.
        """
        for name, allowed in _PLAIN.items():
            if name in self.fields:
                self.only(name, *allowed)
        known = self._seen | _SAYS_NOTHING | _SEARCH.keys()
        known |= {name for name in self.fields if name.endswith('_token_id')}
        known |= {'temperature', 'top_k', 'top_p', 'typical_p', 'early_stopping'}
        known |= {'num_return_sequences', 'output_scores', 'return_dict_in_generate'}
        if unknown := sorted(self.fields.keys() - known):
            name = unknown[0]
            raise UserError(
                f'{self.file}: {name} is {json.dumps(self.fields[name])[:80]}, and it is not known '
                'whether that changes what the model computes; take the field out if it does not'
            )
        return [
            f'{name} {json.dumps(value)} is not taken over: seqzoo predict has no such setting'
            for name, plain in _SEARCH.items()
            if (value := self.search_setting(name, plain[0])) not in plain
        ]

    def refuse(self, name: str, wanted: str, value: Any = _NO_FIELD) -> UserError:
        """The error about a field that is not what it must be."""
        value = self.fields.get(name, _NO_FIELD) if value is _NO_FIELD else value
        said = 'is missing' if value is _NO_FIELD else f'is {json.dumps(value)[:80]}'
        return UserError(
            f'{self.file}: {name} {said}, but seqzoo reads {self.model_type} models only with '
            f'{wanted}'
        )

    def _take(self, name: str, default: Any) -> Any:
        self._seen.add(name)
        return self.fields.get(name, default)


def name_of_activation(ours: Activation) -> str:
    """Their name of a non-linearity of ours."""
    return next(name for name, own in ACTIVATIONS.items() if own == ours)


def _is_number(value: Any) -> bool:
    # JSON as Python reads it has NaN and Infinity, too.
    return type(value) in (int, float) and math.isfinite(value)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f'{file} cannot be read ({error.strerror}): is it the folder of a Hugging Face model?'
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{file} is damaged ({error}); get it again') from error
    if not isinstance(found, dict):
        raise UserError(f'{file} holds no JSON object; get it again')
    return found
