"""The big Transformer of "Attention Is All You Need" on WMT 2014 English-French.

As the big model on English-German, with dropout 0.1 (section 6.1), 36 million pairs and a
vocabulary of 32,000 pieces. The paper prints 41.0 in its proceedings and 41.8 in its later version.
"""

from seqzoo.configuration import load_config
from seqzoo.experiment import Experiment

CHANGES = {
    'description': 'The big Transformer on WMT14 English-French, by the paper',
    'model.dropout_rate': 0.1,
    'task.corpus.pair': 'fr-en',
    'task.target_language': 'fr',
    'task.tokenizer.vocab_size': 32_000,
    'published.result': '41.0 (proceedings) or 41.8 (later version) BLEU, newstest2014',
    'published.score': 'bleu_tokenized',
    'published.parameters': '',  # 213M is of English-German
}


def experiment() -> Experiment:
    return load_config('transformer_big_wmt14_ende', CHANGES)
