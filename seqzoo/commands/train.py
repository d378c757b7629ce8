"""`seqzoo train`."""

import argparse

from seqzoo.buckets import place
from seqzoo.commands.command import Command, add_config, add_data_dir, at_least
from seqzoo.commands.processes import EXPLANATION, add_processes, join
from seqzoo.configuration import load_config

DESCRIPTION = f"""\
Reads the configuration and its data (--data-dir D; the numerals need none). Writes the run folder
R: experiment.json, the tokenizer, checkpoints/, metrics.jsonl, tensorboard/. If R holds
checkpoints, training goes on from the newest good one, exactly as if it had never stopped. What
defines the run (model, task, optimizer, schedule, batch, seed) must then be the same; how it runs
(mesh, train, decode) may change, and so may the number of devices and processes.

--fork-from P begins with all parameters of the run P, whose model is the same. --pretrained P is
for fine-tuning: the models differ by their heads, and what lies below them is taken from P with its
tokenizer; what was taken and what is new is said by name, and noted in R/origin.json.

{EXPLANATION}
examples:
  seqzoo train transformer_tiny_numerals --run runs/demo
  seqzoo train transformer_tiny_numerals --run runs/small --model.num-layers 1 --train.steps 500
  seqzoo train transformer_tiny_text --run runs/mine --data-dir D \\
      --task.source-language en --task.target-language fr
  seqzoo train bert_small_rt_polarity --run runs/polarity --data-dir D --pretrained runs/bert
  seqzoo train transformer_base_wmt14_ende --run runs/base --data-dir D --require tpu
  seqzoo train transformer_base_wmt14_ende --run runs/base --data-dir D \\
      --coordinator host0:12345 --processes 2 --process-id 0

Any field of the configuration is an option; `seqzoo show CONFIG` lists them.
"""

STATUS = {'done': 0, 'preempted': 75, 'interrupted': 130}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `train`."""
    add_config(parser)
    parser.add_argument(
        '--run',
        type=place,
        required=True,
        metavar='R',
        help='the run folder; made, or taken up again',
    )
    add_data_dir(parser, cache=True)
    parser.add_argument(
        '--fork-from', type=place, metavar='R', help='begin with the parameters of another run'
    )
    parser.add_argument(
        '--pretrained',
        type=place,
        metavar='P',
        help='fine-tune: begin with what lies below the head of another run, and its tokenizer',
    )
    parser.add_argument(
        '--profile',
        type=at_least(1),
        metavar='STEPS',
        help='record an xprof trace of so many steps into R/profile',
    )
    parser.add_argument(
        '--require',
        choices=('tpu', 'gpu', 'cpu'),
        help='refuse to train on anything else, instead of falling back to it',
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Trains; the exit status says whether the run is done or was stopped and saved."""
    experiment = load_config(arguments.config, arguments.overrides)
    join(arguments, preemption=True)
    from seqzoo.training import train

    result = train(
        experiment,
        arguments.run,
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        progress='none' if arguments.quiet else 'auto',
        require=arguments.require,
        profile_steps=arguments.profile,
        fork_from=arguments.fork_from,
        pretrained=arguments.pretrained,
    )
    return STATUS[result.status]


COMMAND = Command(
    'train', 'train a configuration into a run folder', DESCRIPTION, add_arguments, run, ('',)
)
