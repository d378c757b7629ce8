"""Tokenizer files in Hugging Face's layout, in and out.

`tokenizer.json` is the library's own format and says everything. Where there is none, the older
files of a family (`vocab.json` and `merges.txt`, `vocab.txt`) are read as that family has them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from seqzoo.data.kept_files import write_atomically
from seqzoo.data.marian_tokenizer import read_json
from seqzoo.data.subwords import (
    DEFINITION,
    END_OF_TEXT,
    SubwordSettings,
    SubwordTokenizer,
    parse_definition,
)
from seqzoo.data.wordpiece import SPECIALS, UNKNOWN, WordPiece
from seqzoo.errors import UserError

Kind = Literal['gpt', 'gpt2', 'gpt_neox']

SETTINGS, SPECIAL_MAP = 'tokenizer_config.json', 'special_tokens_map.json'
_VOCABULARY, _MERGES, _PIECES = 'vocab.json', 'merges.txt', 'vocab.txt'
_NAMES = ('bos_token', 'eos_token', 'unk_token', 'pad_token')
_CLASSES = {'gpt': 'OpenAIGPTTokenizer', 'gpt2': 'GPT2Tokenizer', 'gpt_neox': 'GPTNeoXTokenizer'}
_PLAIN_CLASS = 'PreTrainedTokenizerFast'  # does what `tokenizer.json` says, and no more
_BREAK_OF_GPT1 = '\n</w>'


def read_subwords(
    folder: Path, kind: Kind, *, vocab_size: int, end_id: int | None
) -> SubwordTokenizer:
    """The tokenizer of a GPT.

    Args:
        folder: of the model.
        kind: which one, for files that do not say.
        vocab_size: rows of the model's table.
        end_id: the id that ends a text; `None`: none does.

    Raises:
        UserError: there is none, or it is damaged or not the model's.
    """
    said = _said(folder)
    specials = {name: said[name] for name in _NAMES if isinstance(said.get(name), str)}
    if (folder / DEFINITION).is_file():
        definition = _definition(folder / DEFINITION, said)
    elif (folder / _VOCABULARY).is_file() and (folder / _MERGES).is_file():
        specials = {'unk_token': '<unk>' if kind == 'gpt' else END_OF_TEXT, **specials}
        if kind != 'gpt':
            specials = {'bos_token': END_OF_TEXT, 'eos_token': END_OF_TEXT, **specials}
        definition = _from_merges(folder, kind, said, specials)
    else:
        raise UserError(
            f'{folder} has neither {DEFINITION} nor {_VOCABULARY} and {_MERGES}; without its '
            'tokenizer a model cannot read: save it there too (tokenizer.save_pretrained), or say '
            '--tokenizer FOLDER'
        )
    try:
        library = parse_definition(definition)
        settings = SubwordSettings(
            vocab_size=vocab_size,
            line_end=_line_end(library, end_id),
            stop_id=end_id,
            prompt_start=_before_texts(library, said),
            specials=specials,
            class_name=_class_name(said, kind),
        )
        return SubwordTokenizer(definition, settings)
    except UserError as error:
        raise UserError(f'{folder}: {error}') from error


def write_subwords(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer of a GPT.

    Raises:
        UserError: it is none that others have.
    """
    if not isinstance(tokenizer, SubwordTokenizer):
        raise UserError(
            'a GPT of Hugging Face reads byte pairs, and the tokenizer of this run is another '
            '(a closed vocabulary or SentencePiece); train with a ByteLevelBPE to export'
        )
    settings, library = tokenizer.settings, tokenizer.library
    specials: dict[str, Any] = dict(settings.specials)
    if settings.lines_apart:
        specials = dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), END_OF_TEXT)
    specials = {'pad_token': None, **specials}
    content = {'tokenizer_class': settings.class_name or _PLAIN_CLASS, **specials}
    content['add_prefix_space'] = _adds_space(tokenizer.definition)
    if settings.prompt_start and not settings.lines_apart:
        content['add_bos_token'] = True
        content['bos_token'] = library.id_to_token(settings.prompt_start[0])
    write_atomically(folder / DEFINITION, tokenizer.definition.encode())
    _write(folder / SETTINGS, content)
    model = json.loads(tokenizer.definition)['model']
    if model.get('type') == 'BPE':
        merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
        lines = '\n'.join(['#version: 0.2', *merges, ''])
        _write(folder / _VOCABULARY, model['vocab'])
        write_atomically(folder / _MERGES, lines.encode())


def read_wordpiece(folder: Path, *, vocab_size: int) -> WordPiece:
    """The tokenizer of BERT, with as many entries as the model has rows.

    Raises:
        UserError: there is none, or it cuts otherwise than BERT's.
    """
    said = _said(folder)
    lowercase = bool(said.get('do_lower_case', True))
    for name, plain in (('strip_accents', None), ('tokenize_chinese_chars', True)):
        if said.get(name, plain) not in (plain, lowercase if plain is None else plain):
            raise UserError(
                f'{folder / SETTINGS}: {name} is {json.dumps(said[name])}, but seqzoo cuts pieces '
                f'only with {json.dumps(plain)}'
            )
    if (folder / _PIECES).is_file():
        entries = WordPiece.from_vocabulary_file(folder / _PIECES, lowercase=lowercase).entries
    elif (folder / DEFINITION).is_file():
        entries, lowercase = _wordpiece(folder / DEFINITION)
    else:
        raise UserError(
            f'{folder} has neither {_PIECES} nor {DEFINITION}; without its tokenizer a model '
            'cannot read: save it there too (tokenizer.save_pretrained), or say --tokenizer FOLDER'
        )
    if len(entries) > vocab_size:
        raise UserError(
            f'{folder}: the tokenizer has {len(entries)} pieces but the model only {vocab_size} '
            'rows; the tokenizer and the weights do not belong together'
        )
    # Rows that no piece has.
    fillers = [f'[unused-row-{number}]' for number in range(len(entries), vocab_size)]
    try:
        return WordPiece([*entries, *fillers], lowercase=lowercase)
    except UserError as error:
        raise UserError(f'{folder}: {error}') from error


def write_wordpiece(tokenizer: WordPiece, folder: Path) -> None:
    """Writes the tokenizer of BERT."""
    pieces = '\n'.join([*tokenizer.entries, ''])
    write_atomically(folder / _PIECES, pieces.encode())
    content = {
        'tokenizer_class': 'BertTokenizer',
        'do_lower_case': tokenizer.lowercase,
    }
    _write(folder / SETTINGS, content)


def _said(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`, with special tokens as plain text."""
    found: dict[str, Any] = {}
    for name in (SPECIAL_MAP, SETTINGS):
        if (folder / name).is_file():
            found |= read_json(folder / name)
    plain = {n: v['content'] for n, v in found.items() if isinstance(v, dict) and 'content' in v}
    return {**found, **plain}


def _class_name(said: Mapping[str, Any], kind: Kind) -> str:
    """What others call the class of an imported tokenizer."""
    found = said.get('tokenizer_class')
    if not isinstance(found, str):
        return _CLASSES[kind]
    return _PLAIN_CLASS if found == 'TokenizersBackend' else found  # its name of today


def _definition(file: Path, said: Mapping[str, Any]) -> str:
    """The text of `tokenizer.json`, with what `tokenizer_config.json` changes in it."""
    try:
        text = file.read_text(encoding='utf-8')
        content = json.loads(text)
        cutter = content.get('pre_tokenizer') or {}
        kind = cutter.get('type')
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f'{file} is damaged ({error}); get it again') from error
    if kind == 'ByteLevel' and isinstance(said.get('add_prefix_space'), bool):
        cutter['add_prefix_space'] = said['add_prefix_space']
        text = json.dumps(content, ensure_ascii=False)
    return text


def _from_merges(
    folder: Path, kind: Kind, said: Mapping[str, Any], specials: Mapping[str, str]
) -> str:
    """The definition that `vocab.json` and `merges.txt` make for a family."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    suffix = '</w>' if kind == 'gpt' else ''
    unknown = {'unk_token': specials['unk_token']} if kind == 'gpt' else {}
    try:
        lines = (folder / _MERGES).read_text(encoding='utf-8').split('\n')
        merges = [tuple(li.split()) for li in lines if li and not li.startswith('#version')]
        model = models.BPE(
            vocab=read_json(folder / _VOCABULARY),
            merges=merges,  # type: ignore[arg-type]
            end_of_word_suffix=suffix,
            **unknown,
        )
    except UserError:
        raise
    except Exception as error:  # the library raises plain `Exception`s
        raise UserError(
            f'{folder / _MERGES} and {_VOCABULARY} do not belong together or are damaged '
            f'({" ".join(str(error).split())[:120]}); get them again'
        ) from error
    library: Any = Tokenizer(model)
    if kind == 'gpt':
        library.normalizer = normalizers.BertNormalizer(lowercase=True)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.BPEDecoder(suffix=suffix)
    else:
        space = bool(said.get('add_prefix_space', False))
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
        library.decoder = decoders.ByteLevel()
        if kind == 'gpt_neox':
            library.normalizer = normalizers.NFC()
    known = [t for t in dict.fromkeys(specials.values()) if library.token_to_id(t) is not None]
    library.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in known])
    return library.to_str()


def _line_end(library: Any, end_id: int | None) -> int:
    """The token after which a text begins: the end of another, a line break, or an unknown one."""
    if end_id is not None:
        return end_id
    found = (library.token_to_id(token) for token in (_BREAK_OF_GPT1, END_OF_TEXT, '<unk>'))
    return next((number for number in found if number is not None), 0)


def _before_texts(library: Any, said: Mapping[str, Any]) -> tuple[int, ...]:
    """What a tokenizer puts before every text by itself.

    Raises:
        UserError: it puts something behind texts, which cannot be continued then.
    """
    bare = library.encode('a', add_special_tokens=False).ids
    dressed = library.encode('a', add_special_tokens=True).ids
    before = dressed[: len(dressed) - len(bare)]
    if dressed != [*before, *bare] or said.get('add_eos_token'):
        raise UserError(
            f'{DEFINITION} or {SETTINGS} puts a token behind every text (add_eos_token); a text '
            'that is to go on cannot have one'
        )
    if said.get('add_bos_token') and not before:
        token = said.get('bos_token')
        token = token.get('content') if isinstance(token, dict) else token
        begin = library.token_to_id(token) if isinstance(token, str) else None
        if begin is None:
            raise UserError(
                f'{SETTINGS}: add_bos_token is true, but no bos_token of the tokenizer is there'
            )
        before = [begin]
    return tuple(before)


def _adds_space(definition: str) -> bool:
    cutter = json.loads(definition).get('pre_tokenizer') or {}
    return bool(cutter.get('add_prefix_space', False))


def _wordpiece(file: Path) -> tuple[tuple[str, ...], bool]:
    """Pieces by id and whether case is folded, out of a `tokenizer.json`."""
    content = read_json(file)
    model, normalizer = content.get('model') or {}, content.get('normalizer') or {}
    wanted = {
        'model.type': (model.get('type'), 'WordPiece'),
        'model.unk_token': (model.get('unk_token'), UNKNOWN),
        'model.continuing_subword_prefix': (model.get('continuing_subword_prefix'), '##'),
        'model.max_input_chars_per_word': (model.get('max_input_chars_per_word'), 100),
        'normalizer.type': (normalizer.get('type'), 'BertNormalizer'),
        'normalizer.clean_text': (normalizer.get('clean_text'), True),
        'normalizer.handle_chinese_chars': (normalizer.get('handle_chinese_chars'), True),
    }
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise UserError(
                f'{file}: {name} is {json.dumps(found)}, but seqzoo cuts pieces only with '
                f'{json.dumps(needed)}'
            )
    lowercase = bool(normalizer.get('lowercase', True))
    if normalizer.get('strip_accents') not in (None, lowercase):
        raise UserError(
            f'{file}: normalizer.strip_accents is {json.dumps(normalizer["strip_accents"])}, but '
            'seqzoo takes accents off exactly where case is folded'
        )
    ids = dict(model.get('vocab') or {})
    for token in content.get('added_tokens') or []:
        ids.setdefault(token.get('content'), token.get('id'))
    entries = [piece for piece, _ in sorted(ids.items(), key=lambda item: item[1])]
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f'{file}: the pieces are not numbered from 0 on; get it again')
    missing = [piece for piece in SPECIALS if piece not in ids]
    if missing:
        raise UserError(f'{file} lacks {" and ".join(missing)}, which BERT needs')
    return tuple(entries), lowercase


def _write(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(
        file, (json.dumps(dict(content), ensure_ascii=False, indent=1) + '\n').encode()
    )
