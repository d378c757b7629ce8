"""One file per architecture."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqzoo.models.bert import Bert, BertConfig, BertForPretraining, BertPretrainingConfig
    from seqzoo.models.bytenet import ByteNet, ByteNetConfig, ByteNetLM, ByteNetLMConfig
    from seqzoo.models.captioner import Captioner, CaptionerConfig
    from seqzoo.models.conv_seq2seq import ConvS2S, ConvS2SConfig
    from seqzoo.models.dense import Dense, DenseConfig
    from seqzoo.models.elmo import (
        BiLM,
        BiLMConfig,
        BiLMForPretraining,
        BiLMPretrainingConfig,
        Elmo,
        ElmoConfig,
    )
    from seqzoo.models.gpt import GPT, GPTConfig
    from seqzoo.models.labeler import LabeledEncoder, LabelerConfig
    from seqzoo.models.language_model_encoder import (
        LanguageModelEncoder,
        LanguageModelEncoderConfig,
    )
    from seqzoo.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig
    from seqzoo.models.recurrent_lm import RecurrentLM, RecurrentLMConfig
    from seqzoo.models.recurrent_seq2seq import RecurrentSeq2Seq, RecurrentSeq2SeqConfig
    from seqzoo.models.tcn import TCN, TCNConfig, TCNEncoder, TCNEncoderConfig
    from seqzoo.models.transformer import Transformer, TransformerConfig
    from seqzoo.models.transformer_encoder import TransformerEncoder, TransformerEncoderConfig
    from seqzoo.models.wavenet import WaveNet, WaveNetConfig

__all__ = [
    'GPT',
    'TCN',
    'Bert',
    'BertConfig',
    'BertForPretraining',
    'BertPretrainingConfig',
    'BiLM',
    'BiLMConfig',
    'BiLMForPretraining',
    'BiLMPretrainingConfig',
    'ByteNet',
    'ByteNetConfig',
    'ByteNetLM',
    'ByteNetLMConfig',
    'Captioner',
    'CaptionerConfig',
    'ConvS2S',
    'ConvS2SConfig',
    'Dense',
    'DenseConfig',
    'Elmo',
    'ElmoConfig',
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
    'TCNConfig',
    'TCNEncoder',
    'TCNEncoderConfig',
    'Transformer',
    'TransformerConfig',
    'TransformerEncoder',
    'TransformerEncoderConfig',
    'WaveNet',
    'WaveNetConfig',
]

_HOMES = {
    'Bert': 'bert',
    'BertConfig': 'bert',
    'BertForPretraining': 'bert',
    'BertPretrainingConfig': 'bert',
    'ByteNet': 'bytenet',
    'ByteNetConfig': 'bytenet',
    'ByteNetLM': 'bytenet',
    'ByteNetLMConfig': 'bytenet',
    'BiLM': 'elmo',
    'BiLMConfig': 'elmo',
    'BiLMForPretraining': 'elmo',
    'BiLMPretrainingConfig': 'elmo',
    'Captioner': 'captioner',
    'CaptionerConfig': 'captioner',
    'ConvS2S': 'conv_seq2seq',
    'ConvS2SConfig': 'conv_seq2seq',
    'Dense': 'dense',
    'DenseConfig': 'dense',
    'GPT': 'gpt',
    'GPTConfig': 'gpt',
    'Elmo': 'elmo',
    'ElmoConfig': 'elmo',
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
    'TCN': 'tcn',
    'TCNConfig': 'tcn',
    'TCNEncoder': 'tcn',
    'TCNEncoderConfig': 'tcn',
    'Transformer': 'transformer',
    'TransformerConfig': 'transformer',
    'TransformerEncoder': 'transformer_encoder',
    'TransformerEncoderConfig': 'transformer_encoder',
    'WaveNet': 'wavenet',
    'WaveNetConfig': 'wavenet',
}


def __getattr__(name: str) -> Any:
    """Imports a model when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
