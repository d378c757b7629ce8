"""The options by which several processes work as one."""

import argparse
from typing import Any

from seqzoo.commands.command import at_least

EXPLANATION = """\
Several processes, usually one a host, work as one: start the same command on each, with
--coordinator, --processes and --process-id, or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID set; on a TPU slice, under srun and under mpirun they find each other by themselves.
Run folder and data must be visible to all. Only process 0 prints and writes. If a process dies the
others leave with status 75, to be started again.
"""


def add_processes(parser: argparse.ArgumentParser, *, wait: int = 300) -> None:
    """Declares `--coordinator`, `--processes`, `--process-id` and `--wait-for-processes`."""
    group = parser.add_argument_group('several processes')
    group.add_argument('--coordinator', metavar='HOST:PORT', help='address of process 0')
    group.add_argument('--processes', type=at_least(1), metavar='N', help='how many there are')
    group.add_argument(
        '--process-id', type=at_least(0), metavar='I', help='the number of this one, from 0'
    )
    group.add_argument(
        '--wait-for-processes',
        type=at_least(1),
        default=wait,
        metavar='SECONDS',
        help=f'how long to wait for the others before giving up (default: {wait})',
    )


def join(arguments: argparse.Namespace, *, preemption: bool = False) -> None:
    """Waits for the other processes, if there are any.

    Args:
        arguments: with what `add_processes` declares.
        preemption: whether the command notes a SIGTERM and saves; others end by it.
    """
    from seqzoo.parallel import processes

    processes.start(**place(arguments), wait=arguments.wait_for_processes, preemption=preemption)


def place(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of this process, by the names of `parallel.processes`."""
    return {name: getattr(arguments, name) for name in ('coordinator', 'processes', 'process_id')}
