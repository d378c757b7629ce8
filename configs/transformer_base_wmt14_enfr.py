"""The base Transformer of "Attention Is All You Need" on WMT 2014 English-French.

As English-German, with 36 million pairs and a vocabulary of 32,000 pieces.
"""

from seqzoo.configuration import load_config
from seqzoo.experiment import Experiment

CHANGES = {
    'description': 'The base Transformer on WMT14 English-French, by the paper',
    'task.corpus.pair': 'fr-en',
    'task.target_language': 'fr',
    'task.tokenizer.vocab_size': 32_000,
    'published.result': '38.1 BLEU (tokenised), newstest2014',
    'published.score': 'bleu_tokenized',
    'published.parameters': '',  # 65M is of English-German
}


def experiment() -> Experiment:
    return load_config('transformer_base_wmt14_ende', CHANGES)
