"""BERT as Hugging Face has it: our BERT with its heads.

`BertForPreTraining` has both heads; `BertForMaskedLM` neither pooler nor the one for sentences, but
the files of published ones hold these too, and then they are read. The encoder alone (`BertModel`)
is not read: what it would be asked about it has no head for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.data.batching import BatchConfig
from seqzoo.data.wordpiece import WordPieceConfig
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
from seqzoo.interop.their_tokenizers import read_wordpiece, write_wordpiece
from seqzoo.models.base import ModelConfig
from seqzoo.models.bert import BertConfig, BertPretrainingConfig
from seqzoo.tasks.base import Decoding, Prepared
from seqzoo.tasks.masked_language_modeling import MaskedLanguageModeling, PreparedDocuments

_BOTH, _MASKED = 'BertForPreTraining', 'BertForMaskedLM'
_OTHER_HEAD = 'cls.seq_relationship.weight'
_ROWS = 8  # of a batch, to begin with


class Bert(Family):
    """`BertForPreTraining` and `BertForMaskedLM`."""

    model_type = 'bert'

    def model(self, theirs: TheirConfig) -> BertPretrainingConfig:
        both = theirs.architecture(_BOTH, _MASKED) == _BOTH or theirs.holds(_OTHER_HEAD)
        theirs.only('position_embedding_type', 'absolute')
        theirs.only('tie_word_embeddings', True)
        heads = theirs.size('num_attention_heads', 12)
        embed_dim = theirs.size('hidden_size', 768)
        if embed_dim % heads:
            raise theirs.refuse('hidden_size', f'a multiple of num_attention_heads {heads}')
        encoder = BertConfig(
            vocab_size=theirs.size('vocab_size', 30522),
            max_length=theirs.size('max_position_embeddings', 512),
            num_token_types=theirs.size('type_vocab_size', 2),
            num_layers=theirs.size('num_hidden_layers', 12),
            embed_dim=embed_dim,
            num_heads=heads,
            mlp_dim=theirs.size('intermediate_size', 3072),
            dropout_rate=theirs.number('hidden_dropout_prob', 0.1),
            attention_dropout_rate=theirs.number('attention_probs_dropout_prob', 0.1),
            norm_epsilon=theirs.number('layer_norm_eps', 1e-12),
            mlp_activation=theirs.choice('hidden_act', ACTIVATIONS, 'gelu'),
            pooler=both,
        )
        return BertPretrainingConfig(encoder=encoder, next_sentence=both)

    def imported(self, theirs: TheirConfig, folder: Path) -> Imported:
        model = self.model(theirs)
        size, length = model.encoder.vocab_size, model.encoder.max_length
        assert size is not None
        tokenizer = read_wordpiece(folder, vocab_size=size)
        return Imported(
            model=model,
            task=MaskedLanguageModeling(
                tokenizer=WordPieceConfig(vocab_size=size, lowercase=tokenizer.lowercase),
                next_sentence=model.next_sentence,
            ),
            batch=BatchConfig(tokens=_ROWS * length, max_length=length),
            decode=Decoding(),
            prepared=PreparedDocuments(tokenizer, {}),
            notes=tuple(theirs.finish()),
        )

    def links(self, model: BertPretrainingConfig) -> Sequence[Link]:
        c = model.encoder
        square = 'out embed -> embed out'
        found = [
            table('bert.embeddings.word_embeddings', 'encoder/embedding/table', 'vocab'),
            table('bert.embeddings.position_embeddings', 'encoder/positions/table', 'positions'),
            table('bert.embeddings.token_type_embeddings', 'encoder/token_types', 'types'),
            *norm('bert.embeddings.LayerNorm', 'encoder/embedding_norm'),
            *_layers(c.num_layers),
            *affine('cls.predictions.transform.dense', 'transform', square, 'out -> out'),
            *norm('cls.predictions.transform.LayerNorm', 'transform_norm'),
            Link('cls.predictions.bias', ('logit_bias',), 'vocab -> vocab'),
        ]
        if c.pooler:
            found += affine('bert.pooler.dense', 'encoder/pooler', square, 'out -> out')
        if model.next_sentence:
            kernel, bias = 'classes embed -> embed classes', 'classes -> classes'
            found += affine('cls.seq_relationship', 'next_sentence', kernel, bias)
        return found

    def sizes(self, model: BertPretrainingConfig) -> Sizes:
        c = model.encoder
        assert c.vocab_size is not None
        return {
            'vocab': c.vocab_size,
            'positions': c.max_length,
            'types': c.num_token_types,
            'classes': 2,
            'embed': c.embed_dim,
            'out': c.embed_dim,
            'heads': c.num_heads,
            'kv': c.embed_dim // c.num_heads,
            'mlp': c.layer().mlp_dim,
        }

    def names(self, model: BertPretrainingConfig) -> TensorNames:
        buffers = [r'embeddings\.(position_ids|token_type_ids)']
        if not model.encoder.pooler:  # old files have one that nothing stands on
            buffers.append(r'pooler\.dense\.(weight|bias)')
        return TensorNames(
            prefix='bert.',
            tied={
                'cls.predictions.decoder.weight': 'bert.embeddings.word_embeddings.weight',
                'cls.predictions.decoder.bias': 'cls.predictions.bias',
            },
            buffers=tuple(buffers),
            renamed={'LayerNorm.gamma': 'LayerNorm.weight', 'LayerNorm.beta': 'LayerNorm.bias'},
        )

    def obstacle(self, model: ModelConfig) -> str | None:
        if not isinstance(model, BertPretrainingConfig):
            return ''
        if model.encoder.pooler != model.next_sentence:
            return 'there a pooler and a head for sentences come together (encoder.pooler)'
        return None

    def config_json(
        self, model: BertPretrainingConfig, prepared: Prepared, decode: Decoding
    ) -> dict[str, Any]:
        assert isinstance(prepared, PreparedDocuments)
        c = model.encoder
        return {
            'architectures': [_BOTH if model.next_sentence else _MASKED],
            'model_type': self.model_type,
            'vocab_size': c.vocab_size,
            'max_position_embeddings': c.max_length,
            'type_vocab_size': c.num_token_types,
            'num_hidden_layers': c.num_layers,
            'hidden_size': c.embed_dim,
            'num_attention_heads': c.num_heads,
            'intermediate_size': c.layer().mlp_dim,
            'hidden_dropout_prob': c.dropout_rate,
            'attention_probs_dropout_prob': c.attention_dropout_rate,
            'layer_norm_eps': c.norm_epsilon,
            'hidden_act': name_of_activation(c.mlp_activation),
            'tie_word_embeddings': True,
            'pad_token_id': prepared.tokenizer.pad_id,
        }

    def write_tokenizer(self, prepared: Prepared, folder: Path) -> None:
        assert isinstance(prepared, PreparedDocuments)
        write_wordpiece(prepared.tokenizer, folder)


def _layers(depth: int) -> list[Link]:
    at, stack = 'bert.encoder.layer.{}', 'encoder/stack/layer'
    attention, mlp = f'{stack}/self_attention', f'{stack}/feed_forward'
    found = [
        link
        for part in ('query', 'key', 'value')
        for link in affine(
            f'{at}.attention.self.{part}', f'{attention}/{part}', HEADS, HEADS_BIAS, depth
        )
    ]
    after = f'{at}.attention.output'
    return [
        *found,
        *affine(f'{after}.dense', f'{attention}/output', FROM_HEADS, STREAM_BIAS, depth),
        *norm(f'{after}.LayerNorm', f'{attention}_residual/layer_norm', depth),
        *affine(f'{at}.intermediate.dense', f'{mlp}/up', UP, MLP_BIAS, depth),
        *affine(f'{at}.output.dense', f'{mlp}/down', DOWN, STREAM_BIAS, depth),
        *norm(f'{at}.output.LayerNorm', f'{mlp}_residual/layer_norm', depth),
    ]
