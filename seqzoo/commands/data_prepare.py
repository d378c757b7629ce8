"""`seqzoo data prepare`."""

import argparse

from seqzoo.buckets import push
from seqzoo.commands.command import Command, add_config, add_data_dir
from seqzoo.commands.reporting import Downloads
from seqzoo.configuration import load_config

DESCRIPTION = """\
Downloads what the configuration's data set has on the web into --data-dir, by published addresses
and checksums, cuts the text into pieces, and plans the batches; prints what was read, kept and
dropped. Safe to repeat: what is there and whole is used. `seqzoo train` does the same where
something is missing, but for the download.

examples:
  seqzoo data prepare transformer_base_wmt14_ende --data-dir D
  seqzoo data prepare transformer_tiny_text --data-dir D --task.target-language fr
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `data prepare`."""
    add_config(parser)
    add_data_dir(parser, cache=True)


def run(arguments: argparse.Namespace) -> int:
    """Downloads, tokenizes, plans."""
    experiment = load_config(arguments.config, arguments.overrides)
    from seqzoo.data.inspection import describe_plan
    from seqzoo.training.run_folder import default_cache_dir, default_data_dir

    data_dir = default_data_dir(arguments.data_dir, may_be_empty=True)
    corpus = getattr(experiment.task, 'corpus', None)
    if corpus is not None:
        for sentence in corpus.prepare(data_dir, progress=Downloads()):
            print(sentence)
        if data_dir is not None:
            push(data_dir)  # where it stands for a place in a bucket
    prepared = experiment.task.prepare(
        experiment.batch,
        data_dir=data_dir,
        cache_dir=arguments.cache_dir or default_cache_dir(),
        announce=print,
    )
    print(describe_plan(experiment.task.plan(prepared, experiment.batch, experiment.seed)))
    return 0


COMMAND = Command(
    'data prepare',
    'download, tokenize and plan the data of a configuration',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
