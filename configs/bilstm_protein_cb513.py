"""Secondary structure of proteins, residue by residue, from the sequence alone.

CB513 is small and serves papers as a test set for models trained on thousands of chains with
evolutionary profiles (Q8 around 0.68 to 0.74); here it is split into ten parts by chain, one to
test on (`--task.corpus.fold`), and no profile is read. Three classes (Q3) by default; `:q8` has the
eight of DSSP.
"""

from seqzoo.data.batching import BatchConfig
from seqzoo.data.tagged import Cb513
from seqzoo.experiment import Experiment, TrainConfig
from seqzoo.layers.inputs import Tokens
from seqzoo.layers.recurrent import RecurrentConfig
from seqzoo.layers.recurrent_cells import LSTM
from seqzoo.models.labeler import LabelerConfig
from seqzoo.models.recurrent_encoder import RecurrentEncoderConfig
from seqzoo.optimization.optimizers import Adam
from seqzoo.optimization.schedules import Cosine
from seqzoo.tasks.labeling import TokenInput
from seqzoo.tasks.tagging import Tagging

EPOCH = 41  # updates


def experiment() -> Experiment:
    return Experiment(
        description='Protein secondary structure by residue (CB513), a bidirectional LSTM',
        model=LabelerConfig(
            encoder=RecurrentEncoderConfig(
                inputs=Tokens(embed_dim=32),
                layers=RecurrentConfig(
                    cell=LSTM(hidden_dim=64),
                    num_layers=2,
                    directions='concatenated',
                    input_dropout_rate=0.2,
                    dropout_rate=0.4,
                    variational=True,
                ),
            ),
            per='step',
            dropout_rate=0.4,
        ),
        task=Tagging(corpus=Cb513(), tokens=TokenInput()),
        optimizer=Adam(beta2=0.99, epsilon=1e-8, clip_norm=1.0),
        schedule=Cosine(peak=4e-3, warmup_steps=50, decay_steps=12 * EPOCH, final=2e-5),
        batch=BatchConfig(tokens=4096, max_length=880, fitted_buckets=6, long_sentences='refuse'),
        train=TrainConfig(
            steps=12 * EPOCH, evaluate_every=EPOCH, checkpoint_every=4 * EPOCH, early_stopping=6
        ),
    )


VARIANTS = {
    'q8': {
        'description': 'Protein secondary structure by residue (CB513), the eight classes of DSSP',
        'task.corpus.states': 8,
    },
}
