"""A small GPT on The Time Machine, minutes on two cores.

The text is folded and cut as in `lstm_char_time_machine`: 26 letters, the space, `<unk>`; nine
tenths are trained on, a twentieth chooses the checkpoint, the last is the test. Bits per character
compare with those of that network.

`:bpe` reads the same lines in 1,000 SentencePiece pieces. It sees capitals and punctuation, so its
bits are of the characters of the book as it is printed, and no match for the folded ones.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.tokenizers import TokenizerConfig
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.models.gpt import GPTConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling


def experiment() -> Experiment:
    return Experiment(
        description='The Time Machine by characters, a GPT of four layers, minutes on two cores',
        model=GPTConfig(
            num_layers=4,
            embed_dim=128,
            num_heads=4,
            max_length=128,
            dropout_rate=0.2,
            attention_dropout_rate=0.0,
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='time_machine', file='timemachine.txt'),
            tokenizer=Characters(letters_only=True, unknown=True),
            order='windows',
            random_offset=True,
        ),
        optimizer=Adam(beta2=0.99, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(peak=3e-3, warmup_steps=100, decay_steps=1500, final=1e-4),
        batch=BatchConfig(tokens=16 * 128, max_length=128, evaluation_rows=8),
        train=TrainConfig(steps=1500, log_every=50, evaluate_every=250, checkpoint_every=250),
        decode=Decoding(method='greedy', extra_length=50),
    )


VARIANTS = {
    'bpe': {
        'description': 'The Time Machine in 1,000 pieces, a GPT of four layers',
        'task.tokenizer': TokenizerConfig(vocab_size=1000, byte_fallback=True),
        'model.dropout_rate': 0.3,
        'train.steps': 750,
        'schedule.decay_steps': 750,
    },
}
