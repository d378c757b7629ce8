"""Multi30k English-German with the tiny Transformer of Wu et al. 2021, 2.6 million parameters.

The configuration is the published recipe: lower-cased text tokenised by Moses' rules, a joint
vocabulary of 9,712 pieces, post-norm, dropout 0.3, a learning rate of 0.005 after 2,000 updates of
warm-up, batches of 2 x 4,096 tokens, at most 8,000 updates, stopped after ten epochs without a
better dev loss, the last ten epochs averaged, beam 5. Its 41.02 is lower-cased tokenised BLEU, in
the results here `bleu_tokenized_lowercase`; sacreBLEU of lower-cased output is a lower number.

`:twenty_minutes` keeps the size and changes what makes it learn quickly on two cores: pre-norm,
less dropout, cased text, smaller batches.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import TextFiles
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.transformer import TransformerConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine, InverseSquareRoot
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation

EPOCH = 66  # updates; snapshots and evaluations once an epoch


def experiment() -> Experiment:
    return Experiment(
        description='Multi30k English-German, 2.6M parameters, the recipe of Wu et al. 2021',
        model=TransformerConfig(
            num_layers=4,
            embed_dim=128,
            mlp_dim=256,
            num_heads=4,
            dropout_rate=0.3,
            attention_bias=True,
        ),
        task=Translation(
            corpus=TextFiles(folder='multi30k', dev='val', test='test_2016_flickr'),
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=9712, lowercase=True, moses=True),
            label_smoothing=0.1,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.98, epsilon=1e-8),
        schedule=InverseSquareRoot(peak=0.005, warmup_steps=2000, initial=1e-7),
        batch=BatchConfig(tokens=8192, max_length=64, fitted_buckets=8, length_multiple=4),
        train=TrainConfig(
            steps=8000,
            evaluate_every=EPOCH,
            early_stopping=10,
            checkpoint_every=4 * EPOCH,
            snapshot_every=EPOCH,
            keep_snapshots=10,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=1.0),
        published=Published(
            paper='Wu et al. 2021',
            result='41.02 tokenised lower-cased BLEU, test_2016_flickr',
            source='verified',
            score='bleu_tokenized_lowercase',
            parameters='2.6M',
        ),
    )


VARIANTS = {
    'twenty_minutes': {
        'description': 'Multi30k English-German, 1.8M parameters, 20 minutes on two cores',
        'published': Published(),
        'model.norm': 'pre',
        'model.dropout_rate': 0.1,
        'model.attention_bias': False,
        'task.tokenizer': TokenizerConfig(kind='bpe', vocab_size=4000),
        'schedule': Cosine(peak=0.004, warmup_steps=400, decay_steps=4000, final=2e-4),
        'batch.tokens': 2048,
        'batch.fitted_buckets': 6,
        'train.steps': 4000,
        'train.max_minutes': 20.0,
        'train.early_stopping': None,
        'train.evaluate_every': 500,
        'train.checkpoint_every': 500,
        'train.snapshot_every': 100,
        'train.keep_snapshots': 100,
    },
}
