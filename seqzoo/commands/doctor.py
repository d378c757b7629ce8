"""`seqzoo doctor`."""

import argparse
import dataclasses
import json

from seqzoo.commands.command import Command, add_json
from seqzoo.commands.processes import add_processes, place

DESCRIPTION = """\
Looks at devices, processes, versions, disk space and lock files, and says in words what is wrong
and what to do; changes nothing. The exit status is 1 where training will not work.

For several processes start it on each as you would start `seqzoo train`: it says which of them do
not come, and where their versions differ.

examples:
  seqzoo doctor
  seqzoo doctor --json
  seqzoo doctor --coordinator host0:12345 --processes 2 --process-id 0
"""


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings."""
    from seqzoo.doctor import diagnose

    findings = diagnose(place=place(arguments), wait=arguments.wait_for_processes)
    if arguments.json:
        print(
            json.dumps({'findings': [dataclasses.asdict(f) for f in findings]}, ensure_ascii=False)
        )
    else:
        for finding in findings:
            print(f'{finding.status:<7}  {finding.name}: {finding.text}')
    return 1 if any(finding.status == 'problem' for finding in findings) else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `doctor`."""
    add_json(parser)
    add_processes(parser, wait=60)


COMMAND = Command(
    'doctor',
    'say in words what this machine offers and what is wrong',
    DESCRIPTION,
    add_arguments,
    run,
)
