"""ConvS2S (Gehring et al. 2017) on WMT 2014 English-German, by the paper.

Fifteen layers each side, ten of 512 channels, three of 768 with windows of 3, two of 2,048 that see
one place; embeddings of 512; a joint vocabulary of 40,000 pieces. Nesterov's momentum of 0.99,
learning rate 0.25, gradients rescaled above a norm of 0.1, the rate divided by ten when the dev
loss no longer falls, batches of 48 sentences, beam 5. One GPU took 18.5 days; the figure is the
mean of three seeds, tokenised and case-sensitive.

fairseq's `fconv_wmt_en_de` is another stack (9 x 512, 4 x 1,024, 2 x 2,048, embeddings of 768).
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.corpora import Wmt14
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.conv_seq2seq import ConvS2SConfig
from seqzoo.optimization.optimizers import SGD
from seqzoo.optimization.schedules import Constant
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.translation import Translation


def experiment() -> Experiment:
    return Experiment(
        description='ConvS2S of Gehring et al. 2017 on WMT14 English-German, by the paper',
        model=ConvS2SConfig(dtype='bfloat16'),
        task=Translation(
            corpus=Wmt14(pair='de-en'),
            source_language='en',
            target_language='de',
            tokenizer=TokenizerConfig(kind='bpe', vocab_size=40_000, sample=1_000_000),
            label_smoothing=0.0,
        ),
        optimizer=SGD(momentum=0.99, nesterov=True, clip_norm=0.1),
        schedule=Constant(rate=0.25),
        batch=BatchConfig(tokens=48 * 32, max_length=175, fitted_buckets=8),
        train=TrainConfig(
            steps=3_000_000,
            log_every=100,
            evaluate_every=90_000,
            checkpoint_every=10_000,
            plateau_patience=1,
            plateau_factor=0.1,
        ),
        decode=Decoding(method='beam', beams=5, length_penalty=0.0),
        published=Published(
            paper='Gehring et al. 2017',
            result='25.16 BLEU (tokenised), newstest2014',
            source='verified',
            score='bleu_tokenized',
        ),
    )
