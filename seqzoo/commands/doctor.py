"""`seqzoo doctor`."""

import argparse
import dataclasses
import json

from seqzoo.commands.command import Command, add_json

DESCRIPTION = """\
Looks at devices, processes, versions, disk space and lock files, and says in words what is wrong
and what to do; changes nothing. The exit status is 1 where training will not work.

examples:
  seqzoo doctor
  seqzoo doctor --json
"""


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings."""
    from seqzoo.doctor import diagnose

    findings = diagnose()
    if arguments.json:
        print(
            json.dumps({'findings': [dataclasses.asdict(f) for f in findings]}, ensure_ascii=False)
        )
    else:
        for finding in findings:
            print(f'{finding.status:<7}  {finding.name}: {finding.text}')
    return 1 if any(finding.status == 'problem' for finding in findings) else 0


COMMAND = Command(
    'doctor', 'say in words what this machine offers and what is wrong', DESCRIPTION, add_json, run
)
