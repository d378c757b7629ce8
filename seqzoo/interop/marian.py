"""Marian (Junczys-Dowmunt et al. 2018) as Hugging Face has it: our Transformer with options.

Post-norm layers with biases in the attention, sinusoids with all sines before all cosines, a bias
on the logits, layer normalisation with an epsilon of 1e-5. A decoder starts with the id that
`decoder_start_token_id` names, which is the padding in the published ones.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.data.batching import BatchConfig
from seqzoo.data.kept_files import write_atomically
from seqzoo.data.marian_tokenizer import (
    TARGET_VOCABULARY,
    MarianPieces,
    MarianTokenizer,
    MarianVocabulary,
    read_json,
)
from seqzoo.data.tokenizers import Tokenizer, TokenizerPair
from seqzoo.errors import UserError
from seqzoo.interop.family import Family, Imported, TensorNames
from seqzoo.interop.layer_links import (
    DOWN,
    FROM_HEADS,
    HEADS,
    HEADS_BIAS,
    MLP_BIAS,
    STREAM_BIAS,
    UP,
    affine,
    norm,
    table,
)
from seqzoo.interop.tensor_links import Link, Sizes
from seqzoo.interop.their_config import ACTIVATIONS, TheirConfig, name_of_activation
from seqzoo.models.base import ModelConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.tasks.base import Decoding, Prepared
from seqzoo.tasks.translation import PreparedTranslation, Translation

_LONGEST_TRAINED = 128
_TOKENIZER_CONFIG = 'tokenizer_config.json'

# What our configuration must say to be of this family, and how a user says it.
_MUST_BE: dict[str, Any] = {
    'norm': 'post',
    'norm_epsilon': 1e-5,
    'positions': 'sinusoidal',
    'sinusoid_layout': 'concatenated',
    'attention_bias': True,
    'final_logit_bias': True,
}


class Marian(Family):
    """`MarianMTModel`."""

    model_type = 'marian'

    def model(self, theirs: TheirConfig) -> TransformerConfig:
        theirs.architecture('MarianMTModel')
        size, embed_dim = theirs.size('vocab_size'), theirs.size('d_model')
        layers, heads = theirs.size('encoder_layers'), theirs.size('encoder_attention_heads')
        mlp_dim = theirs.size('encoder_ffn_dim')
        target_size = theirs.open_size('decoder_vocab_size') or size
        theirs.only('decoder_attention_heads', heads)
        theirs.only('decoder_ffn_dim', mlp_dim)
        theirs.only('num_hidden_layers', layers)
        theirs.only('is_encoder_decoder', True)
        for name in ('add_bias_logits', 'add_final_layer_norm', 'normalize_before'):
            theirs.only(name, False)
        theirs.only('normalize_embedding', False)
        theirs.only('force_bos_token_to_be_generated', False)
        theirs.only('static_position_embeddings', True)
        shared = theirs.flag('share_encoder_decoder_embeddings', True)
        if shared:
            theirs.only('tie_word_embeddings', True)
            theirs.only('decoder_vocab_size', size, None)
        if embed_dim % heads:
            raise theirs.refuse('d_model', f'a multiple of encoder_attention_heads {heads}')
        tied = theirs.flag('tie_word_embeddings', True)
        return TransformerConfig(
            vocab_size=target_size,
            source_vocab_size=size if size != target_size else None,
            num_layers=layers,
            num_decoder_layers=theirs.size('decoder_layers'),
            embed_dim=embed_dim,
            mlp_dim=mlp_dim,
            num_heads=heads,
            dropout_rate=theirs.number('dropout', 0.1),
            attention_dropout_rate=theirs.number('attention_dropout', 0.0),
            mlp_dropout_rate=theirs.number('activation_dropout', 0.0),
            max_length=theirs.size('max_position_embeddings', 1024),
            tie='all' if shared else 'decoder' if tied else 'none',
            scale_embeddings=theirs.flag('scale_embedding', False),
            mlp_activation=theirs.choice('activation_function', ACTIVATIONS, 'gelu'),
            **_MUST_BE,
        )

    def imported(self, theirs: TheirConfig, folder: Path) -> Imported:
        model = self.model(theirs)
        size, longest = model.vocab_size, model.max_length
        assert size is not None
        assert longest is not None
        begin = theirs.token('decoder_start_token_id', size)
        end = theirs.token('eos_token_id', size, 0)
        if begin is None:
            raise theirs.refuse('decoder_start_token_id', 'the id of one token', None)
        notes = [
            f'{name} is not taken over: whole layers are never dropped'
            for name in ('encoder_layerdrop', 'decoder_layerdrop')
            if theirs.number(name, 0.0)
        ]
        if theirs.token('forced_eos_token_id', size) not in (None, end):
            raise theirs.refuse('forced_eos_token_id', f'eos_token_id {end}')
        beams = theirs.beams()
        decode = Decoding(
            method='beam' if beams > 1 else 'greedy',
            beams=beams,
            length_penalty=theirs.length_penalty(),
            banned=theirs.banned_tokens(size),
        )
        settings = _settings(folder)
        vocabulary = MarianVocabulary.read(
            folder,
            joint=settings['joint'],
            begin_id=begin,
            vocab_size=size,
            source_vocab_size=model.source_vocab_size or size,
            **settings['special'],
        )
        pair = vocabulary.pair()
        if pair.target.eos_id != end:
            raise theirs.refuse(
                'eos_token_id',
                f'the number of {vocabulary.end} in vocab.json, {pair.target.eos_id}',
            )
        pieces = MarianPieces(
            vocab_size=size,
            source_vocab_size=None if vocabulary.joint else vocabulary.source_vocab_size,
            begin_id=begin,
        )
        max_length = min(_LONGEST_TRAINED, longest)
        return Imported(
            model=model,
            task=Translation(tokenizer=pieces, **settings['languages']),
            batch=BatchConfig(max_length=max_length, evaluation_max_length=longest),
            decode=decode,
            prepared=PreparedTranslation(pair, {}, {}),
            notes=(*notes, *theirs.finish()),
        )

    def links(self, model: TransformerConfig) -> Sequence[Link]:
        c = model
        encoder = c.num_encoder_layers or c.num_layers
        decoder = c.num_decoder_layers or c.num_layers
        found = [Link('final_logits_bias', ('logit_bias',), '1 vocab -> vocab')]
        if c.tie == 'all':
            found.append(table('model.shared', 'embedding/table', 'vocab'))
        else:
            source, target = 'source_embedding/table', 'target_embedding/table'
            found.append(table('model.encoder.embed_tokens', source, 'source_vocab'))
            found.append(table('model.decoder.embed_tokens', target, 'vocab'))
        if c.tie == 'none':
            found.append(Link('lm_head.weight', ('output/kernel',), 'vocab embed -> embed vocab'))
        for side, depth in (('encoder', encoder), ('decoder', decoder)):
            found += _attention(side, depth, 'self_attn', 'self_attention')
            if side == 'decoder':
                found += _attention(side, depth, 'encoder_attn', 'cross_attention')
            found += _feed_forward(side, depth)
        return found

    def sizes(self, model: TransformerConfig) -> Sizes:
        layer = model.layer()
        assert model.vocab_size is not None
        return {
            'vocab': model.vocab_size,
            'source_vocab': model.source_vocab_size or model.vocab_size,
            'embed': model.embed_dim,
            'heads': model.num_heads,
            'kv': layer.key_dim,
            'mlp': model.mlp_dim,
        }

    def names(self, model: TransformerConfig) -> TensorNames:
        tied: dict[str, str] = {}
        if model.tie == 'all':
            copies = ('lm_head', 'model.encoder.embed_tokens', 'model.decoder.embed_tokens')
            tied = {f'{name}.weight': 'model.shared.weight' for name in copies}
        elif model.tie == 'decoder':
            tied = {'lm_head.weight': 'model.decoder.embed_tokens.weight'}
        return TensorNames(
            tied=tied, buffers=(r'model\.(encoder|decoder)\.embed_positions\.weight',)
        )

    def obstacle(self, model: ModelConfig) -> str | None:
        if not isinstance(model, TransformerConfig):
            return ''
        options = ' '.join(
            f'--model.{name.replace("_", "-")} {str(value).lower()}'
            for name, value in _MUST_BE.items()
            if getattr(model, name) != value
        )
        if options:
            return f'Marian is a Transformer trained with {options}'
        layer = model.layer()
        if not layer.key_dim == layer.value_dim == model.embed_dim / model.num_heads:
            return 'the heads of Marian have embed_dim / num_heads columns'
        return None

    def config_json(
        self, model: TransformerConfig, prepared: Prepared, decode: Decoding
    ) -> dict[str, Any]:
        c, target = model, _pair(prepared).target
        shared, size = c.tie == 'all', c.source_vocab_size or c.vocab_size
        return {
            'architectures': ['MarianMTModel'],
            'model_type': self.model_type,
            'is_encoder_decoder': True,
            'vocab_size': size,
            'decoder_vocab_size': c.vocab_size,
            'share_encoder_decoder_embeddings': shared,
            'tie_word_embeddings': c.tie != 'none',
            'd_model': c.embed_dim,
            'encoder_layers': c.num_encoder_layers or c.num_layers,
            'decoder_layers': c.num_decoder_layers or c.num_layers,
            'encoder_attention_heads': c.num_heads,
            'decoder_attention_heads': c.num_heads,
            'encoder_ffn_dim': c.mlp_dim,
            'decoder_ffn_dim': c.mlp_dim,
            'activation_function': name_of_activation(c.mlp_activation),
            'dropout': c.dropout_rate,
            'attention_dropout': c.attention_dropout_rate,
            'activation_dropout': c.mlp_dropout_rate,
            'scale_embedding': c.scale_embeddings,
            'max_position_embeddings': c.max_length or 1024,
            'decoder_start_token_id': target.bos_id,
            'pad_token_id': target.pad_id,
            'eos_token_id': target.eos_id,
            'forced_eos_token_id': target.eos_id,
        }

    def write_tokenizer(self, prepared: Prepared, folder: Path) -> None:
        pair = _pair(prepared)
        vocabulary = as_marian(pair)
        vocabulary.write_lists(folder)
        settings = {
            'tokenizer_class': 'MarianTokenizer',
            'separate_vocabs': not vocabulary.joint,
            'unk_token': vocabulary.unknown,
            'eos_token': vocabulary.end,
            'pad_token': vocabulary.padding,
        }
        if not vocabulary.joint:
            settings['target_vocab_file'] = TARGET_VOCABULARY
        write_atomically(folder / _TOKENIZER_CONFIG, json.dumps(settings, indent=2).encode())


def as_marian(pair: TokenizerPair) -> MarianVocabulary:
    """The tokenizers of a run as Marian has them.

    Raises:
        UserError: they do to a text what Marian's do not.
    """
    source, target = pair.source, pair.target
    if isinstance(source, MarianTokenizer):
        return source.vocabulary
    assert isinstance(source, Tokenizer)
    assert isinstance(target, Tokenizer)
    if source.config.lowercase or source.config.moses:
        raise UserError(
            'Marian cuts text as it is, but the tokenizer of this run was trained with lowercase '
            'or moses; train without them to export'
        )

    def numbers(tokenizer: Tokenizer) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}

    joint = source.fingerprint == target.fingerprint
    ids = numbers(target)
    return MarianVocabulary(
        source_model=source.model,
        target_model=target.model,
        source_ids=ids if joint else numbers(source),
        target_ids=ids,
        begin_id=target.bos_id,
        vocab_size=target.vocab_size,
        source_vocab_size=source.vocab_size,
    )


def _pair(prepared: Prepared) -> TokenizerPair:
    assert isinstance(prepared, PreparedTranslation)
    return prepared.tokenizers


def _settings(folder: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says: special pieces, languages, and whether there is one list.

    Raises:
        UserError: it asks for what we do not do.
    """
    file = folder / _TOKENIZER_CONFIG
    said = read_json(file) if file.is_file() else {}
    if said.get('sp_model_kwargs'):
        raise UserError(
            f'{file}: sp_model_kwargs is {json.dumps(said["sp_model_kwargs"])}; seqzoo cuts only '
            'in the one best way, so take the field out'
        )
    special = {}
    for ours, name in (('unknown', 'unk_token'), ('end', 'eos_token'), ('padding', 'pad_token')):
        value = said.get(name)
        value = value.get('content') if isinstance(value, dict) else value
        if isinstance(value, str):
            special[ours] = value
    languages = {
        f'{side}_language': said[f'{side}_lang']
        for side in ('source', 'target')
        if isinstance(said.get(f'{side}_lang'), str)
    }
    joint = not said.get('separate_vocabs', False)
    return {'special': special, 'languages': languages, 'joint': joint}


def _attention(side: str, depth: int, theirs: str, ours: str) -> list[Link]:
    at, stack = f'model.{side}.layers.{{}}.{theirs}', f'{side}/layer/{ours}'
    return [
        *affine(f'{at}.q_proj', f'{stack}/query', HEADS, HEADS_BIAS, depth),
        *affine(f'{at}.k_proj', f'{stack}/key', HEADS, HEADS_BIAS, depth),
        *affine(f'{at}.v_proj', f'{stack}/value', HEADS, HEADS_BIAS, depth),
        *affine(f'{at}.out_proj', f'{stack}/output', FROM_HEADS, STREAM_BIAS, depth),
        *norm(f'{at}_layer_norm', f'{stack}_residual/layer_norm', depth),
    ]


def _feed_forward(side: str, depth: int) -> list[Link]:
    at, stack = f'model.{side}.layers.{{}}', f'{side}/layer/feed_forward'
    return [
        *affine(f'{at}.fc1', f'{stack}/up', UP, MLP_BIAS, depth),
        *affine(f'{at}.fc2', f'{stack}/down', DOWN, STREAM_BIAS, depth),
        *norm(f'{at}.final_layer_norm', f'{stack}_residual/layer_norm', depth),
    ]
