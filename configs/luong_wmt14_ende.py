"""The local-p network with input feeding of Luong, Pham, Manning 2015 on WMT 2014 English-German.

Four LSTM layers of 1,000 cells each side, embeddings of 1,000, 50,000 words a side, the source read
from its end; local attention with a predicted centre, D = 10 and general scores; dropout 0.2; no
biases: 222,001,000 parameters. Uniform start within 0.1; plain gradient descent, 1 for eight
epochs, then halved every epoch, twelve in all; sentences of at most 50 words.

The paper's gradient is a mean over the 128 sentences of a batch, rescaled above a norm of 5; here
it is a mean over target words, of which a sentence has about 25, so that the rate is 25 times
higher and the norm 25 times lower. Its 19.0 is tokenised BLEU of one network, before unknown words
are replaced by what they attend to (20.9), which is not done here.

The variants are rows of tables 1 and 4, by what they change; those without dropout train ten epochs
and halve the rate after five.
"""

from typing import Any

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

WORDS = 25  # of a target sentence, end mark included


def experiment() -> Experiment:
    return Experiment(
        description='Local attention of Luong et al. 2015 on WMT14 English-German, by the paper',
        model=RecurrentSeq2SeqConfig(
            embed_dim=1000,
            cell=LSTM(hidden_dim=1000, biases=0, forget_bias=0.0, init_scale=0.1),
            num_layers=4,
            attention='general',
            attention_span='local-p',
            attention_window=10,
            input_feeding=True,
            dropout_rate=0.2,
            init_scale=0.1,
            dtype='bfloat16',
        ),
        task=Translation(
            corpus=Wmt14(pair='de-en'),
            source_language='en',
            target_language='de',
            tokenizer=TokenizerConfig(kind='word', vocab_size=50_000, joint=False, moses=True),
            label_smoothing=0.0,
        ),
        optimizer=SGD(clip_norm=5 / WORDS),
        schedule=EpochDecay(rate=1.0 * WORDS, constant_epochs=8, divisor=2.0),
        batch=BatchConfig(tokens=128 * 28, max_length=50, fitted_buckets=6),
        train=TrainConfig(
            steps=420_000, log_every=100, evaluate_every=10_000, checkpoint_every=10_000
        ),
        decode=Decoding(method='beam', beams=10, length_penalty=0.0),
        published=Published(
            paper='Luong et al. 2015',
            result='19.0 BLEU (tokenised), newstest2014',
            source='verified',
            score='bleu_tokenized',
            parameters='164M',
            difference='the paper prints no count; 164M, in Pereyra et al. 2017, is two embeddings '
            'and eight LSTM layers, without input feeding, attention and softmax',
        ),
    )


def row(what: str, result: str, **changes: Any) -> dict[str, Any]:
    """A row of tables 1 and 4: perplexity and BLEU before unknown words are replaced."""
    perplexity, bleu = result.split()
    return {
        'description': f'{what}, of Luong et al. 2015 on WMT14 English-German',
        'published': Published(
            paper='Luong et al. 2015',
            result=f'perplexity {perplexity}, {bleu} BLEU (tokenised), newstest2014',
            source='verified',
            score='bleu_tokenized',
        ),
        **{path.replace('__', '.'): value for path, value in changes.items()},
    }


PLAIN = {
    'model__attention': 'none',
    'model__attention_span': 'global',
    'model__input_feeding': False,
}
SHORT = {'model__dropout_rate': 0.0, 'schedule__constant_epochs': 5, 'train__steps': 350_000}

VARIANTS = {
    'base': row('No attention', '10.6 11.3', **PLAIN, **SHORT, model__reverse_source=False),
    'reverse': row('No attention, source reversed', '9.9 12.6', **PLAIN, **SHORT),
    'dropout': row('No attention, source reversed, dropout', '8.1 14.0', **PLAIN),
    'global_dot': row(
        'Global dot attention', '6.1 18.6', model__attention='dot', model__attention_span='global'
    ),
    'global_general': row('Global general attention', '6.1 17.3', model__attention_span='global'),
    'local_m_general': row(
        'Monotonic local attention', '6.2 18.6', model__attention_span='local-m'
    ),
    'local_p_dot': row('Predictive local dot attention', '6.6 18.0', model__attention='dot'),
}
