"""Multi30k English-German with a small ConvS2S, 1.6 million parameters.

Data, vocabulary, batches and scorer are those of `transformer_tiny_multi30k_ende:twenty_minutes`
and of `recurrent_tiny_multi30k_ende`, so that one table compares networks and nothing else: four
layers of 128 channels with windows of 3 on each side, each of the decoder's attending. It learns by
Adam with a cosine; Nesterov's momentum at the paper's rate of 0.25 needs more epochs than fit into
twenty minutes on two cores.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.conv_seq2seq import ConvS2SConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def experiment() -> Experiment:
    return Experiment(
        description='Multi30k English-German, a small ConvS2S, on two cores',
        model=ConvS2SConfig(
            embed_dim=128,
            widths=(128,) * 4,
            windows=(3,) * 4,
            max_length=256,
            dropout_rate=0.1,
            tie='all',
        ),
        task=Translation(
            corpus=TextFiles(folder='multi30k', dev='val', test='test_2016_flickr'),
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=4000),
            label_smoothing=0.1,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.98, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=0.003, warmup_steps=300, decay_steps=4000, final=1e-4),
        batch=BatchConfig(tokens=2048, max_length=64, fitted_buckets=6, length_multiple=4),
        train=TrainConfig(
            steps=4000,
            max_minutes=20.0,
            evaluate_every=500,
            checkpoint_every=500,
            snapshot_every=100,
            keep_snapshots=100,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=1.0),
    )
