"""GPT-1, GPT-2 and GPT-NeoX as Hugging Face has them: our GPT with three sets of options.

GPT-1 and GPT-2 keep queries, keys and values in one matrix `[embed, 3 * embed]` that is multiplied
from the right; NeoX has `[heads * 3 * kv, embed]`, in which the three alternate from head to head.
`'gelu'` of a GPT-1 is the approximation by a hyperbolic tangent, and exact in the others.
"""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from seqzoo.data.batching import BatchConfig
from seqzoo.data.subwords import ImportedSubwords
from seqzoo.interop.family import Family, Imported, TensorNames
from seqzoo.interop.layer_links import (
    DOWN,
    FROM_HEADS,
    MLP_BIAS,
    STREAM_BIAS,
    UP,
    affine,
    norm,
    table,
)
from seqzoo.interop.tensor_links import Link, Sizes
from seqzoo.interop.their_config import ACTIVATIONS, TheirConfig, name_of_activation
from seqzoo.interop.their_tokenizers import Kind, read_subwords, write_subwords
from seqzoo.models.base import ModelConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.tasks.base import Decoding, Prepared
from seqzoo.tasks.language_modeling import LanguageModeling, PreparedText

_LONGEST_TRAINED, _LONGEST_CONTINUATION = 1024, 50
_STACK = 'decoder/layer'
_HEADS = tuple(f'{_STACK}/self_attention/{part}' for part in ('query', 'key', 'value'))

# GPT-1's names of the non-linearities, which are not the others'.
_GPT1_ACTIVATIONS = {'gelu': 'gelu_tanh', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}


class _GPT(Family, abc.ABC):
    """What the three have in common.

    Attributes:
        kind: how their tokenizers are stored.
        default_end: what `eos_token_id` is where `config.json` does not say it.
        must_be: what our configuration must say.
    """

    kind: ClassVar[Kind]
    default_end: ClassVar[int | None] = None
    must_be: ClassVar[dict[str, Any]]

    def imported(self, theirs: TheirConfig, folder: Path) -> Imported:
        model: Any = self.model(theirs)
        size = model.vocab_size
        end = theirs.token('eos_token_id', size, self.default_end, beyond_is_none=True)
        tokenizer = read_subwords(folder, self.kind, vocab_size=size, end_id=end)
        decode = Decoding(
            method='greedy',
            extra_length=max(1, min(_LONGEST_CONTINUATION, model.max_length // 2)),
            banned=theirs.banned_tokens(size),
        )
        beams = theirs.beams()
        notes = list(self._notes(theirs))
        if beams > 1:
            notes.append(f'num_beams {beams} is not taken over: say --decode.method beam')
        length = min(_LONGEST_TRAINED, model.max_length)
        return Imported(
            model=model,
            task=LanguageModeling(tokenizer=ImportedSubwords(vocab_size=size), order='windows'),
            batch=BatchConfig(tokens=8 * length, max_length=length),
            decode=decode,
            prepared=PreparedText(tokenizer, {}, {}),
            notes=(*notes, *theirs.finish()),
        )

    def _notes(self, theirs: TheirConfig) -> Sequence[str]:
        """What is not taken over."""
        del theirs
        return ()

    def sizes(self, model: GPTConfig) -> Sizes:
        assert model.vocab_size is not None
        return {
            'vocab': model.vocab_size,
            'positions': model.max_length,
            'embed': model.embed_dim,
            'heads': model.num_heads,
            'kv': model.width_of_head,
            'mlp': model.layers()[0].mlp_dim,
        }

    def obstacle(self, model: ModelConfig) -> str | None:
        if not isinstance(model, GPTConfig):
            return ''
        if any(model.attention_bands):
            return 'no model there attends in bands (attention_bands)'
        if model.width_of_head * model.num_heads != model.embed_dim:
            return 'the heads there have embed_dim / num_heads columns (head_dim)'
        other = [f'{n} {v}' for n, v in self.must_be.items() if getattr(model, n) != v]
        return f'{self.model_type} needs {" and ".join(other)}' if other else None

    def write_tokenizer(self, prepared: Prepared, folder: Path) -> None:
        assert isinstance(prepared, PreparedText)
        write_subwords(prepared.tokenizer, folder)


def _ends(prepared: Prepared) -> dict[str, Any]:
    """The ids of the special tokens for `config.json`."""
    assert isinstance(prepared, PreparedText)
    tokenizer = prepared.tokenizer
    return {'bos_token_id': tokenizer.line_end, 'eos_token_id': tokenizer.stop_id}


class GPT2(_GPT):
    """`GPT2LMHeadModel`."""

    model_type = 'gpt2'
    kind = 'gpt2'
    default_end = 50256
    must_be: ClassVar[dict[str, Any]] = {
        'norm': 'pre',
        'positions': 'learned',
        'parallel_residual': False,
        'attention_bias': True,
        'mlp_bias': True,
        'norm_bias': True,
    }

    def model(self, theirs: TheirConfig) -> GPTConfig:
        theirs.architecture('GPT2LMHeadModel', 'GPT2Model')
        theirs.only('scale_attn_weights', True)
        theirs.only('scale_attn_by_inverse_layer_idx', False)
        theirs.flag('reorder_and_upcast_attn', False)  # another order of the same operations
        return GPTConfig(
            vocab_size=theirs.size('vocab_size', 50257),
            num_layers=theirs.size('n_layer', 12),
            embed_dim=theirs.size('n_embd', 768),
            mlp_dim=theirs.open_size('n_inner'),
            num_heads=_heads(theirs, 'n_head', 'n_embd', (12, 768)),
            max_length=theirs.size('n_positions', 1024),
            norm_epsilon=theirs.number('layer_norm_epsilon', 1e-5),
            mlp_activation=theirs.choice('activation_function', ACTIVATIONS, 'gelu_new'),
            tie=theirs.flag('tie_word_embeddings', True),
            dropout_rate=theirs.number('resid_pdrop', 0.1),
            attention_dropout_rate=theirs.number('attn_pdrop', 0.1),
            **self.must_be,
        )

    def _notes(self, theirs: TheirConfig) -> Sequence[str]:
        return _one_dropout(theirs)

    def links(self, model: GPTConfig) -> Sequence[Link]:
        found = [
            table('transformer.wte', 'embedding/table', 'vocab'),
            table('transformer.wpe', 'positions/table', 'positions'),
            *norm('transformer.ln_f', 'decoder_norm'),
            *_conv1d_layers(model.num_layers),
        ]
        return found if model.tie else [*found, _output('lm_head')]

    def names(self, model: GPTConfig) -> TensorNames:
        return TensorNames(
            prefix='transformer.',
            tied={'lm_head.weight': 'transformer.wte.weight'} if model.tie else {},
            buffers=(r'h\.\d+\.attn\.(bias|masked_bias)',),
        )

    def config_json(self, model: GPTConfig, prepared: Prepared, decode: Decoding) -> dict[str, Any]:
        return {
            'architectures': ['GPT2LMHeadModel'],
            'model_type': self.model_type,
            'vocab_size': model.vocab_size,
            'n_layer': model.num_layers,
            'n_embd': model.embed_dim,
            'n_inner': model.mlp_dim,
            'n_head': model.num_heads,
            'n_positions': model.max_length,
            'layer_norm_epsilon': model.norm_epsilon,
            'activation_function': name_of_activation(model.mlp_activation),
            'tie_word_embeddings': model.tie,
            'resid_pdrop': model.dropout_rate,
            'embd_pdrop': model.dropout_rate,
            'attn_pdrop': model.attention_dropout_rate,
            **_ends(prepared),
        }


class GPT1(_GPT):
    """`OpenAIGPTLMHeadModel`."""

    model_type = 'openai-gpt'
    kind = 'gpt'
    must_be: ClassVar[dict[str, Any]] = {**GPT2.must_be, 'norm': 'post', 'tie': True}

    def model(self, theirs: TheirConfig) -> GPTConfig:
        theirs.architecture('OpenAIGPTLMHeadModel', 'OpenAIGPTModel')
        theirs.only('tie_word_embeddings', True)
        return GPTConfig(
            vocab_size=theirs.size('vocab_size', 40478),
            num_layers=theirs.size('n_layer', 12),
            embed_dim=theirs.size('n_embd', 768),
            num_heads=_heads(theirs, 'n_head', 'n_embd', (12, 768)),
            max_length=theirs.size('n_positions', 512),
            norm_epsilon=theirs.number('layer_norm_epsilon', 1e-5),
            mlp_activation=theirs.choice('afn', _GPT1_ACTIVATIONS, 'gelu'),
            dropout_rate=theirs.number('resid_pdrop', 0.1),
            attention_dropout_rate=theirs.number('attn_pdrop', 0.1),
            **self.must_be,
        )

    def _notes(self, theirs: TheirConfig) -> Sequence[str]:
        return _one_dropout(theirs)

    def obstacle(self, model: ModelConfig) -> str | None:
        if isinstance(model, GPTConfig):
            if model.mlp_dim not in (None, 4 * model.embed_dim):
                return f'{self.model_type} needs mlp_dim 4 * embed_dim'
            if model.mlp_activation not in _GPT1_ACTIVATIONS.values():
                return f'{self.model_type} needs mlp_activation gelu_tanh, relu or silu'
        return super().obstacle(model)

    def links(self, model: GPTConfig) -> Sequence[Link]:
        return [
            table('transformer.tokens_embed', 'embedding/table', 'vocab'),
            table('transformer.positions_embed', 'positions/table', 'positions'),
            *_conv1d_layers(model.num_layers),
        ]

    def names(self, model: GPTConfig) -> TensorNames:
        del model
        return TensorNames(
            prefix='transformer.',
            tied={'lm_head.weight': 'transformer.tokens_embed.weight'},
            buffers=(r'h\.\d+\.attn\.bias', r'position_ids'),
        )

    def config_json(self, model: GPTConfig, prepared: Prepared, decode: Decoding) -> dict[str, Any]:
        activations = {ours: name for name, ours in reversed(_GPT1_ACTIVATIONS.items())}
        return {
            'architectures': ['OpenAIGPTLMHeadModel'],
            'model_type': self.model_type,
            'vocab_size': model.vocab_size,
            'n_layer': model.num_layers,
            'n_embd': model.embed_dim,
            'n_head': model.num_heads,
            'n_positions': model.max_length,
            'layer_norm_epsilon': model.norm_epsilon,
            'afn': activations[model.mlp_activation],
            'resid_pdrop': model.dropout_rate,
            'embd_pdrop': model.dropout_rate,
            'attn_pdrop': model.attention_dropout_rate,
            **{name: value for name, value in _ends(prepared).items() if name == 'eos_token_id'},
        }


class GPTNeoX(_GPT):
    """`GPTNeoXForCausalLM`."""

    model_type = 'gpt_neox'
    kind = 'gpt_neox'
    default_end = 2
    must_be: ClassVar[dict[str, Any]] = {
        'norm': 'pre',
        'positions': 'rotary',
        'mlp_bias': True,
        'norm_bias': True,
    }

    def model(self, theirs: TheirConfig) -> GPTConfig:
        theirs.architecture('GPTNeoXForCausalLM')
        theirs.only('rope_scaling', None)
        turned = theirs.part('rope_parameters', known=('rope_theta', 'partial_rotary_factor'))
        # The newest of the names by which files call the same comes first. Outside of
        # `rope_parameters` transformers reads the old ones alone: the new may not say otherwise.
        share = turned.get('partial_rotary_factor', theirs.number('rotary_pct', 0.25))
        base = turned.get('rope_theta', theirs.number('rotary_emb_base', 10000.0))
        theirs.only('partial_rotary_factor', share)
        theirs.only('rope_theta', base)
        for old in ('hidden_dropout_prob', 'attention_probs_dropout_prob'):
            theirs.only(old, 0)
        heads = _heads(theirs, 'num_attention_heads', 'hidden_size', (64, 6144))
        return GPTConfig(
            vocab_size=theirs.size('vocab_size', 50432),
            num_layers=theirs.size('num_hidden_layers', 44),
            embed_dim=theirs.size('hidden_size', 6144),
            mlp_dim=theirs.size('intermediate_size', 24576),
            num_heads=heads,
            max_length=theirs.size('max_position_embeddings', 2048),
            rotary_share=float(share),
            rotary_base=float(base),
            parallel_residual=theirs.flag('use_parallel_residual', True),
            norm_epsilon=theirs.number('layer_norm_eps', 1e-5),
            mlp_activation=theirs.choice('hidden_act', ACTIVATIONS, 'gelu'),
            attention_bias=theirs.flag('attention_bias', True),
            tie=theirs.flag('tie_word_embeddings', False),
            dropout_rate=theirs.number('hidden_dropout', 0.0),
            attention_dropout_rate=theirs.number('attention_dropout', 0.0),
            **self.must_be,
        )

    def links(self, model: GPTConfig) -> Sequence[Link]:
        at, depth = 'gpt_neox.layers.{}', model.num_layers
        fused, fused_bias = (
            '(heads parts kv) embed -> embed heads kv',
            '(heads parts kv) -> heads kv',
        )
        qkv_bias, dense_bias = (fused_bias, STREAM_BIAS) if model.attention_bias else (None, None)
        attention, mlp = f'{_STACK}/self_attention', f'{_STACK}/feed_forward'
        found = [
            table('gpt_neox.embed_in', 'embedding/table', 'vocab'),
            *norm('gpt_neox.final_layer_norm', 'decoder_norm'),
            *norm(f'{at}.input_layernorm', f'{attention}_residual/layer_norm', depth),
            *norm(f'{at}.post_attention_layernorm', f'{mlp}_residual/layer_norm', depth),
            *affine(f'{at}.attention.query_key_value', _HEADS, fused, qkv_bias, depth),
            *affine(f'{at}.attention.dense', f'{attention}/output', FROM_HEADS, dense_bias, depth),
            *affine(f'{at}.mlp.dense_h_to_4h', f'{mlp}/up', UP, MLP_BIAS, depth),
            *affine(f'{at}.mlp.dense_4h_to_h', f'{mlp}/down', DOWN, STREAM_BIAS, depth),
        ]
        return found if model.tie else [*found, _output('embed_out')]

    def names(self, model: GPTConfig) -> TensorNames:
        attention = r'layers\.\d+\.attention\.'
        return TensorNames(
            prefix='gpt_neox.',
            tied={'embed_out.weight': 'gpt_neox.embed_in.weight'} if model.tie else {},
            buffers=(
                rf'{attention}(bias|masked_bias|rotary_emb\.inv_freq)',
                r'rotary_emb\.inv_freq',
            ),
        )

    def config_json(self, model: GPTConfig, prepared: Prepared, decode: Decoding) -> dict[str, Any]:
        return {
            'architectures': ['GPTNeoXForCausalLM'],
            'model_type': self.model_type,
            'vocab_size': model.vocab_size,
            'num_hidden_layers': model.num_layers,
            'hidden_size': model.embed_dim,
            'intermediate_size': model.layers()[0].mlp_dim,
            'num_attention_heads': model.num_heads,
            'max_position_embeddings': model.max_length,
            'rotary_pct': model.rotary_share,
            'rotary_emb_base': model.rotary_base,
            'use_parallel_residual': model.parallel_residual,
            'layer_norm_eps': model.norm_epsilon,
            'hidden_act': name_of_activation(model.mlp_activation),
            'attention_bias': model.attention_bias,
            'tie_word_embeddings': model.tie,
            'hidden_dropout': model.dropout_rate,
            'attention_dropout': model.attention_dropout_rate,
            **_ends(prepared),
        }


def _heads(theirs: TheirConfig, name: str, width: str, defaults: tuple[int, int]) -> int:
    """The number of heads, which must divide the width of the stream."""
    heads, embed_dim = theirs.size(name, defaults[0]), theirs.size(width, defaults[1])
    if embed_dim % heads:
        raise theirs.refuse(width, f'a multiple of {name} {heads}')
    return heads


def _one_dropout(theirs: TheirConfig) -> list[str]:
    """Ours has one rate of dropout for the embeddings and for the sublayers."""
    embeddings, others = theirs.number('embd_pdrop', 0.1), theirs.number('resid_pdrop', 0.1)
    if embeddings == others:
        return []
    return [f'embd_pdrop {embeddings} is not taken over: embeddings drop as resid_pdrop {others}']


def _output(name: str) -> Link:
    return Link(f'{name}.weight', ('output/kernel',), 'vocab embed -> embed vocab')


def _conv1d_layers(depth: int) -> list[Link]:
    """The layers of GPT-1 and GPT-2, whose matrices are multiplied from the right."""
    at, attention, mlp = 'transformer.h.{}', f'{_STACK}/self_attention', f'{_STACK}/feed_forward'
    fused, fused_bias = 'embed (parts heads kv) -> embed heads kv', '(parts heads kv) -> heads kv'
    from_heads, up = '(heads kv) embed -> heads kv embed', 'embed mlp -> embed mlp'
    return [
        *norm(f'{at}.ln_1', f'{attention}_residual/layer_norm', depth),
        *norm(f'{at}.ln_2', f'{mlp}_residual/layer_norm', depth),
        *affine(f'{at}.attn.c_attn', _HEADS, fused, fused_bias, depth),
        *affine(f'{at}.attn.c_proj', f'{attention}/output', from_heads, STREAM_BIAS, depth),
        *affine(f'{at}.mlp.c_fc', f'{mlp}/up', up, MLP_BIAS, depth),
        *affine(f'{at}.mlp.c_proj', f'{mlp}/down', 'mlp embed -> mlp embed', STREAM_BIAS, depth),
    ]
