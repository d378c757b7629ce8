"""The encoder-decoder without attention of Sutskever, Vinyals, Le 2014 on WMT 2014 English-French.

Four LSTM layers of 1,000 cells each side, embeddings of 1,000, 160,000 English and 80,000 French
words, the source read from its end, no biases: 384,000,000 parameters, 64,000,000 of them
recurrent. Uniform start within 0.08; plain gradient descent, 0.7 for five epochs, then halved every
half epoch (here: quartered every epoch); beam 12.

The paper divides the gradient by 128, the sentences of a batch, and rescales it above a norm of 5;
here a gradient is a mean over target words, of which a sentence has about 29, so that the rate is
29 times higher and the norm 29 times lower. The paper trains on 12 of the 36 million pairs, a
selection that is not part of the data set here. Its figure is of one network with beam 12 (five of
them together: 34.81). `:forward` does not turn the source around (26.17, in the paper's text 25.9).
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from seqzoo.optimization.optimizers import SGD
from seqzoo.optimization.schedules import EpochDecay
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation

WORDS = 29  # of a target sentence, end mark included


def experiment() -> Experiment:
    return Experiment(
        description='The deep LSTM of Sutskever et al. 2014 on WMT14 English-French, by the paper',
        model=RecurrentSeq2SeqConfig(
            embed_dim=1000,
            cell=LSTM(hidden_dim=1000, biases=0, forget_bias=0.0, init_scale=0.08),
            num_layers=4,
            init_scale=0.08,
            dtype='bfloat16',
        ),
        task=Translation(
            corpus=Wmt14(pair='fr-en'),
            source_language='en',
            target_language='fr',
            tokenizer=TokenizerConfig(
                kind='word', vocab_size=80_000, source_vocab_size=160_000, joint=False, moses=True
            ),
            label_smoothing=0.0,
        ),
        optimizer=SGD(clip_norm=5 / WORDS),
        schedule=EpochDecay(rate=0.7 * WORDS, constant_epochs=5, divisor=4.0),
        batch=BatchConfig(tokens=128 * 32, max_length=80, fitted_buckets=8),
        train=TrainConfig(
            steps=700_000, log_every=100, evaluate_every=10_000, checkpoint_every=10_000
        ),
        decode=Decoding(method='beam', beams=12, length_penalty=0.0),
        published=Published(
            paper='Sutskever et al. 2014',
            result='30.59 BLEU (tokenised), newstest2014',
            source='verified',
            score='bleu_tokenized',
            parameters='384M',
        ),
    )


VARIANTS = {
    'forward': {
        'description': 'The deep LSTM of Sutskever et al. 2014, the source read forward',
        'model.reverse_source': False,
        'published.result': '26.17 BLEU (tokenised), newstest2014',
    },
}
