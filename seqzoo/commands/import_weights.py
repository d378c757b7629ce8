"""`seqzoo import-weights`."""

import argparse
from pathlib import Path

from seqzoo.commands.command import Command
from seqzoo.commands.reporting import say

DESCRIPTION = """\
Reads FOLDER, a model in Hugging Face's layout: config.json, model.safetensors (or shards and their
index) and its tokenizer. Writes the run folder R with a checkpoint of step 0, on which predict,
evaluate, export-weights and `train --fork-from R` work. Kinds of models: Marian, GPT-2, GPT
(openai-gpt), GPT-NeoX and BERT. Nothing is guessed: a field of config.json or a tensor that does
not fit is refused by its name. Files in torch's pickle format are not read.

R/experiment.json is a configuration for training further:
  seqzoo train R/experiment.json --run NEW --fork-from R --data-dir D

examples:
  seqzoo import-weights opus-mt-en-de --run runs/marian
  seqzoo import-weights gpt2 --run runs/gpt2 --decode.extra-length 100
  seqzoo import-weights gpt2 --run runs/gpt2 --model.dtype bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `import-weights`."""
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='the folder of the model')
    parser.add_argument('--run', type=Path, required=True, metavar='R', help='the run folder; made')
    parser.add_argument(
        '--tokenizer', type=Path, metavar='F', help='the folder of the tokenizer, if not FOLDER'
    )


def run(arguments: argparse.Namespace) -> int:
    """Imports, and says what was made."""
    from seqzoo.training.exchange import import_weights

    made = import_weights(
        arguments.folder,
        arguments.run,
        tokenizer=arguments.tokenizer,
        overrides=arguments.overrides,
    )
    for note in made.notes:
        say(f'seqzoo: {note}')
    name = type(made.experiment.model).__name__.removesuffix('Config')
    print(f'{made.run}: {name}, {made.parameters:,} parameters')
    return 0


COMMAND = Command(
    'import-weights',
    'make a run of a Hugging Face model',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
