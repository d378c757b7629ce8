"""`seqzoo data show`."""

import argparse
import itertools

from seqzoo.commands.command import Command, add_config, add_data_dir, at_least
from seqzoo.configuration import load_config

DESCRIPTION = """\
Prints training batches as the model sees them: decoded examples, pieces and ids, lengths, the share
of padding, and the shapes that will be compiled. Reads the data; writes only the cache.

examples:
  seqzoo data show transformer_tiny_numerals
  seqzoo data show transformer_tiny_text --data-dir D --batches 2 --rows 8 --batch.packing
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `data show`."""
    add_config(parser)
    add_data_dir(parser, cache=True)
    parser.add_argument('--step', type=at_least(0), default=0, metavar='S', help='the first batch')
    parser.add_argument('--batches', type=at_least(1), default=1, metavar='N', help='how many (1)')
    parser.add_argument('--rows', type=at_least(1), default=4, metavar='N', help='rows of each (4)')


def run(arguments: argparse.Namespace) -> int:
    """Prints the plan and some batches."""
    experiment = load_config(arguments.config, arguments.overrides)
    from seqzoo.data.inspection import describe_plan
    from seqzoo.training.lengths import refuse_long_rows
    from seqzoo.training.run_folder import default_cache_dir, default_data_dir

    task, batch = experiment.task, experiment.batch
    prepared = task.prepare(
        batch,
        data_dir=default_data_dir(arguments.data_dir),
        cache_dir=arguments.cache_dir or default_cache_dir(),
        announce=print,
    )
    plan = task.plan(prepared, batch, experiment.seed)
    refuse_long_rows(experiment, prepared, plan)
    print(describe_plan(plan))
    batches = task.batches(
        prepared, plan, start_step=arguments.step, row_multiple=1, process_index=0, process_count=1
    )
    for item in itertools.islice(batches, arguments.batches):
        print(f'\nstep {item.step}')
        print(prepared.describe_batch(item.arrays, arguments.rows))
    return 0


COMMAND = Command(
    'data show', 'print batches as the model sees them', DESCRIPTION, add_arguments, run, ('',)
)
