"""RNNsearch-50 of Bahdanau, Cho, Bengio 2014 on WMT 2014 English-French.

A GRU of 1,000 units in both directions, embeddings of 620, additive attention over 1,000 units, a
maxout layer of 500 before the softmax over 30,000 words, no biases: 80,401,000 parameters. Adadelta
(rho 0.95, epsilon 1e-6) on batches of 80 sentences of at most 50 words, gradients rescaled above a
norm of 1, about five days on one GPU of its time.

The paper's norm is that of a mean over sentences, here a gradient is a mean over target words, of
which a sentence has about 29. It starts matrices by hand (recurrent ones orthogonal, the others
normal with 0.01, those of the alignment with 0.001 and its vector at zero); here recurrent ones are
orthogonal too and the others Glorot uniform. The paper trains on 348 million words selected from
the 850 million that are here. The figure for 300,000 updates is the unstarred row of its table 1;
the 28.45 that is usually quoted was trained longer. `:thirty` is RNNsearch-30.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.recurrent_cells import GRU
from seqzoo.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from seqzoo.optimization.optimizers import Adadelta
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation

WORDS = 29  # of a target sentence, end mark included


def experiment() -> Experiment:
    return Experiment(
        description='RNNsearch-50 of Bahdanau et al. 2014 on WMT14 English-French, by the paper',
        model=RecurrentSeq2SeqConfig(
            embed_dim=620,
            cell=GRU(hidden_dim=1000, biases=0, reset='before'),
            num_layers=1,
            bidirectional_layers=1,
            reverse_source=False,
            initial_state='projected',
            attention='additive',
            attention_state='previous',
            maxout_dim=500,
            init_scale=None,
            dtype='bfloat16',
        ),
        task=Translation(
            corpus=Wmt14(pair='fr-en'),
            source_language='en',
            target_language='fr',
            tokenizer=TokenizerConfig(kind='word', vocab_size=30_000, joint=False, moses=True),
            label_smoothing=0.0,
        ),
        optimizer=Adadelta(rho=0.95, epsilon=1e-6, clip_norm=1 / WORDS),
        schedule=Constant(rate=1.0),
        batch=BatchConfig(tokens=80 * 50, max_length=50, fitted_buckets=6),
        train=TrainConfig(steps=300_000, log_every=100, evaluate_every=5000, checkpoint_every=5000),
        decode=Decoding(method='beam', beams=12, length_penalty=0.0),
        published=Published(
            paper='Bahdanau et al. 2014',
            result='26.75 BLEU (tokenised), newstest2014',
            source='verified',
            score='bleu_tokenized',
        ),
    )


VARIANTS = {
    'thirty': {
        'description': 'RNNsearch-30 of Bahdanau et al. 2014: sentences of at most 30 words',
        'batch.tokens': 80 * 30,
        'batch.max_length': 30,
        'published.result': '21.50 BLEU (tokenised), newstest2014',
    },
}
