"""One file per architecture."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqzoo.models.bert import Bert, BertConfig, BertForPretraining, BertPretrainingConfig
    from seqzoo.models.captioner import Captioner, CaptionerConfig
    from seqzoo.models.dense import Dense, DenseConfig
    from seqzoo.models.gpt import GPT, GPTConfig
    from seqzoo.models.labeler import LabeledEncoder, LabelerConfig
    from seqzoo.models.language_model_encoder import (
        LanguageModelEncoder,
        LanguageModelEncoderConfig,
    )
    from seqzoo.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig
    from seqzoo.models.recurrent_lm import RecurrentLM, RecurrentLMConfig
    from seqzoo.models.recurrent_seq2seq import RecurrentSeq2Seq, RecurrentSeq2SeqConfig
    from seqzoo.models.transformer import Transformer, TransformerConfig

__all__ = [
    'GPT',
    'Bert',
    'BertConfig',
    'BertForPretraining',
    'BertPretrainingConfig',
    'Captioner',
    'CaptionerConfig',
    'Dense',
    'DenseConfig',
    'GPTConfig',
    'LabeledEncoder',
    'LabelerConfig',
    'LanguageModelEncoder',
    'LanguageModelEncoderConfig',
    'RecurrentEncoder',
    'RecurrentEncoderConfig',
    'RecurrentLM',
    'RecurrentLMConfig',
    'RecurrentSeq2Seq',
    'RecurrentSeq2SeqConfig',
    'Transformer',
    'TransformerConfig',
]

_HOMES = {
    'Bert': 'bert',
    'BertConfig': 'bert',
    'BertForPretraining': 'bert',
    'BertPretrainingConfig': 'bert',
    'Captioner': 'captioner',
    'CaptionerConfig': 'captioner',
    'Dense': 'dense',
    'DenseConfig': 'dense',
    'GPT': 'gpt',
    'GPTConfig': 'gpt',
    'LabeledEncoder': 'labeler',
    'LabelerConfig': 'labeler',
    'LanguageModelEncoder': 'language_model_encoder',
    'LanguageModelEncoderConfig': 'language_model_encoder',
    'RecurrentEncoder': 'recurrent_encoder',
    'RecurrentEncoderConfig': 'recurrent_encoder',
    'RecurrentLM': 'recurrent_lm',
    'RecurrentLMConfig': 'recurrent_lm',
    'RecurrentSeq2Seq': 'recurrent_seq2seq',
    'RecurrentSeq2SeqConfig': 'recurrent_seq2seq',
    'Transformer': 'transformer',
    'TransformerConfig': 'transformer',
}


def __getattr__(name: str) -> Any:
    """Imports a model when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
