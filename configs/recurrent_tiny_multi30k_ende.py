"""Multi30k English-German with small recurrent encoder-decoders, one to two million parameters.

Data, vocabulary, batches and scorer are those of `transformer_tiny_multi30k_ende:twenty_minutes`,
so that one table compares networks and nothing else:

    :rnn, :gru, :lstm   two layers each side, no attention, the source read from its end
                        (Sutskever et al. 2014)
    :bahdanau           GRU in both directions, additive attention, maxout output (Bahdanau et al.
                        2014)
    :luong              LSTM, general scores, input feeding (Luong et al. 2015); the default
    :gnmt               three layers, the bottom one of the encoder in both directions, one
                        residual (Wu et al. 2016)

Each is there for English-French too, as `:lstm_enfr`. All learn by Adam with a cosine: the papers'
plain gradient descent needs more epochs than fit into a quarter of an hour on two cores.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Cell, Elman
from seqzoo.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def plain(cell: Cell) -> RecurrentSeq2SeqConfig:
    """Two layers each side of that cell, all that the decoder knows in its first state."""
    return RecurrentSeq2SeqConfig(
        embed_dim=cell.hidden_dim,
        cell=cell,
        num_layers=2,
        dropout_rate=0.2,
        tie='all',
        init_scale=None,
    )


MODELS = {
    'rnn': plain(Elman(hidden_dim=160)),
    'gru': plain(GRU(hidden_dim=160, reset='before')),
    'lstm': plain(LSTM(hidden_dim=160)),
    'bahdanau': RecurrentSeq2SeqConfig(
        embed_dim=160,
        cell=GRU(hidden_dim=160, reset='before'),
        num_layers=1,
        bidirectional_layers=1,
        reverse_source=False,
        initial_state='projected',
        attention='additive',
        attention_state='previous',
        maxout_dim=160,
        dropout_rate=0.2,
        tie='all',
        init_scale=None,
    ),
    'luong': RecurrentSeq2SeqConfig(
        embed_dim=160,
        cell=LSTM(hidden_dim=160),
        num_layers=2,
        attention='general',
        input_feeding=True,
        dropout_rate=0.2,
        tie='all',
        init_scale=None,
    ),
    'gnmt': RecurrentSeq2SeqConfig(
        embed_dim=128,
        cell=LSTM(hidden_dim=128),
        num_layers=3,
        bidirectional_layers=1,
        reverse_source=False,
        residual_from=2,
        attention='additive',
        attention_state='previous',
        dropout_rate=0.2,
        tie='all',
        init_scale=None,
    ),
}


def experiment() -> Experiment:
    return Experiment(
        description='Multi30k English-German, small recurrent encoder-decoders',
        model=MODELS['luong'],
        task=Translation(
            corpus=TextFiles(folder='multi30k', dev='val', test='test_2016_flickr'),
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=4000),
            label_smoothing=0.1,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.98, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=0.003, warmup_steps=300, decay_steps=3000, final=1e-4),
        batch=BatchConfig(tokens=2048, max_length=64, fitted_buckets=6, length_multiple=4),
        train=TrainConfig(
            steps=3000,
            max_minutes=15.0,
            evaluate_every=500,
            checkpoint_every=500,
            snapshot_every=100,
            keep_snapshots=100,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=1.0),
    )


VARIANTS = {
    f'{name}{suffix}': {
        'description': f'Multi30k English-{language}, {name}, on two cores',
        'model': model,
        'task.target_language': target,
    }
    for suffix, target, language in (('', 'de', 'German'), ('_enfr', 'fr', 'French'))
    for name, model in MODELS.items()
}
