"""`seqzoo export-weights`."""

import argparse
from pathlib import Path

from seqzoo.buckets import place
from seqzoo.commands.command import Command, add_checkpoint

DESCRIPTION = """\
Reads the run folder R and writes the folder F in Hugging Face's layout: config.json,
generation_config.json, model.safetensors (float32) and the files of the tokenizer, which
`transformers` loads with from_pretrained. Models: GPT, BERT, and a Transformer that is one of
Marian's (you are told what must be set to be one).

examples:
  seqzoo export-weights runs/gpt2 --output gpt2-tuned
  seqzoo export-weights runs/marian --output opus-tuned --average 5
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `export-weights`."""
    parser.add_argument('run', type=place, metavar='R', help='the run folder')
    parser.add_argument('--output', type=Path, required=True, metavar='F', help='the folder; made')
    add_checkpoint(parser)


def run(arguments: argparse.Namespace) -> int:
    """Exports, and lists the files."""
    from seqzoo.training.exchange import export_weights

    names = export_weights(
        arguments.run, arguments.output, step=arguments.step, average_last=arguments.average
    )
    print('\n'.join(str(arguments.output / name) for name in names))
    return 0


COMMAND = Command(
    'export-weights',
    'write a run as a Hugging Face model',
    DESCRIPTION,
    add_arguments,
    run,
)
