"""Tiny Shakespeare by characters: nanoGPT's baby GPT, 10,745,088 parameters.

Six layers of 384, six heads, no biases anywhere, 64 rows of 256 characters, dropout 0.2, AdamW
(0.9, 0.99) with 1e-3 after 100 updates, a cosine to a tenth in 5,000. nanoGPT leaves positions out
when it counts 10.65M, and reports a validation loss of 1.4697 nats (2.120 bits) a character.

The text is cut as in `lstm_char_shakespeare`, the last twentieth being the development text, so
that bits per character compare. nanoGPT keeps the last tenth: `:nanogpt` does so too. Its rows
begin at characters drawn with replacement; here an epoch sees every character once, from another
offset each time.

`:cpu` is smaller, for minutes on two cores.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, Published, TrainConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        description="Tiny Shakespeare by characters, nanoGPT's baby GPT",
        model=GPTConfig(
            num_layers=6,
            embed_dim=384,
            num_heads=6,
            max_length=256,
            mlp_activation='gelu',
            attention_bias=False,
            mlp_bias=False,
            norm_bias=False,
            dropout_rate=0.2,
            attention_dropout_rate=0.2,
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='tiny_shakespeare', file='input.txt', test_share=0.0),
            tokenizer=Characters(vocab_size=65),
            order='windows',
            random_offset=True,
        ),
        optimizer=Adam(beta2=0.99, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(peak=1e-3, warmup_steps=100, decay_steps=5000, final=1e-4),
        batch=BatchConfig(tokens=64 * 256, max_length=256),
        train=TrainConfig(steps=5000, evaluate_every=250, checkpoint_every=250, log_every=50),
        decode=Decoding(method='sample', temperature=0.8, extra_length=200),
        published=Published(paper='Karpathy 2022 (nanoGPT)', result='1.4697 nats (its own cut)'),
    )


VARIANTS = {
    'nanogpt': {
        'description': "Tiny Shakespeare by characters, nanoGPT's baby GPT and its cut of the text",
        'task.corpus.dev_share': 0.1,
    },
    'cpu': {
        'description': 'Tiny Shakespeare by characters, a GPT of 0.8M parameters, minutes on two '
        'cores',
        'model.num_layers': 4,
        'model.embed_dim': 128,
        'model.num_heads': 4,
        'model.max_length': 128,
        'model.dropout_rate': 0.0,
        'model.attention_dropout_rate': 0.0,
        'schedule': Cosine(peak=3e-3, warmup_steps=100, decay_steps=3000, final=1e-4),
        'batch': BatchConfig(tokens=16 * 128, max_length=128, evaluation_rows=16),
        'train.steps': 3000,
        'train.evaluate_every': 500,
        'train.checkpoint_every': 500,
        'decode.extra_length': 100,
    },
}
