"""ByteNet (Kalchbrenner et al. 2016) on WMT 2014 English-German, character by character.

Thirty ReLU blocks each side, 800 hidden channels, windows of 3, dilations 1, 2, 4, 8, 16 six times;
a source of n characters has 1.2 n places. Adam at 3e-4, beam 12 without a length penalty. The
vocabulary is joint, at most the 600 most frequent characters; the paper has one for each side (323
and 296 characters) and bags of n-grams over the source.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.bytenet import ByteNetConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def experiment() -> Experiment:
    return Experiment(
        description='ByteNet of Kalchbrenner et al. 2016 on WMT14 English-German, by the paper',
        model=ByteNetConfig(dtype='bfloat16', remat='full'),
        task=Translation(
            corpus=Wmt14(pair='de-en'),
            source_language='en',
            target_language='de',
            tokenizer=TokenizerConfig(kind='char', vocab_size=600, sample=1_000_000),
            label_smoothing=0.0,
        ),
        optimizer=Adam(beta1=0.9, beta2=0.999, epsilon=1e-8),
        schedule=Constant(rate=3e-4),
        batch=BatchConfig(tokens=32 * 500, max_length=500, fitted_buckets=8),
        train=TrainConfig(
            steps=1_000_000, log_every=100, evaluate_every=5000, checkpoint_every=5000
        ),
        decode=Decoding(method='beam', beams=12, length_penalty=0.0, extra_length=200),
        published=Published(
            paper='Kalchbrenner et al. 2016',
            result='23.75 BLEU (tokenised), newstest2014',
            source='secondary',
            score='bleu_tokenized',
        ),
    )
