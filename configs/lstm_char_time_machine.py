"""The character network of the textbooks on The Time Machine: 26 letters, the space, `<unk>`.

The first nine tenths of the book are trained on, the next twentieth chooses the checkpoint, the
last is the test: no character is in two parts. `:gru` exchanges the cell alone; `:rnn` also raises
the learning rate, without which it is still learning when the others are done.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.plain_text import CutFile
from seqzoo.data.vocabularies import Characters
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import GRU, LSTM, Elman
from seqzoo.models.recurrent_lm import RecurrentLMConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.base import Decoding
from seqzoo.tasks.language_modeling import LanguageModeling

HIDDEN = 256


def experiment() -> Experiment:
    return Experiment(
        description='The Time Machine by characters, one LSTM layer, minutes on two cores',
        model=RecurrentLMConfig(
            embed_dim=None,
            layers=RecurrentConfig(cell=LSTM(hidden_dim=HIDDEN), output_dropout_rate=0.3),
            init_scale=None,
        ),
        task=LanguageModeling(
            corpus=CutFile(folder='time_machine', file='timemachine.txt'),
            tokenizer=Characters(letters_only=True, unknown=True),
            random_offset=True,
        ),
        optimizer=Adam(clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=100, decay_steps=1500),
        batch=BatchConfig(tokens=32 * 64, max_length=64, evaluation_rows=1),
        train=TrainConfig(steps=1500, log_every=50, evaluate_every=250, checkpoint_every=500),
        decode=Decoding(method='greedy', extra_length=50),
    )


VARIANTS = {
    'rnn': {
        'description': 'The Time Machine by characters, one tanh layer',
        'model.layers.cell': Elman(hidden_dim=HIDDEN),
        'schedule.peak': 1e-2,
    },
    'gru': {
        'description': 'The Time Machine by characters, one GRU layer',
        'model.layers.cell': GRU(hidden_dim=HIDDEN),
    },
}
