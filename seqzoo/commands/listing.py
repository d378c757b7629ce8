"""`seqzoo list`."""

import argparse
import json
import sys

from seqzoo.commands.command import Command, add_json, table
from seqzoo.configuration import config_names, find_config, load_config, variants
from seqzoo.errors import UserError

DESCRIPTION = """\
Reads the configurations that come with seqzoo; writes nothing. Parameters are counted at the
vocabulary size of the paper, or at that of the configuration.

examples:
  seqzoo list
  seqzoo list --json | python -m json.tool
"""


def run(arguments: argparse.Namespace) -> int:
    """Prints one line, or one JSON object, per configuration."""
    from seqzoo.analysis.known_sizes import known_size

    configs = []
    for name in config_names():
        try:
            experiment = load_config(name)
            parameters = known_size(experiment.nominal_model())
        except UserError as error:  # one broken file must not hide the others
            print(f'seqzoo: {name}: {error}', file=sys.stderr)
            continue
        configs.append(
            {
                'name': name,
                'description': experiment.description,
                'model': type(experiment.model).__name__.removesuffix('Config'),
                'task': type(experiment.task).__name__,
                'data': experiment.task.data_name,
                'parameters': parameters,
                'paper': experiment.published.paper,
                'published': experiment.published.result,
                'variants': list(variants(find_config(name))),
            }
        )
    if arguments.json:
        print(json.dumps({'configs': configs}, ensure_ascii=False))
        return 0
    columns = ('name', 'model', 'task', 'data', 'parameters', 'published')
    header = ('CONFIG', 'MODEL', 'TASK', 'DATA', 'PARAMETERS', 'PAPER')
    print(table([header, *([config[column] for column in columns] for config in configs)]))
    for config in configs:
        if config['variants']:
            print(f'{config["name"]} has the variants :{", :".join(config["variants"])}')
    return 0


COMMAND = Command(
    'list',
    'list the configurations, with their size and the result of the paper',
    DESCRIPTION,
    add_json,
    run,
)
