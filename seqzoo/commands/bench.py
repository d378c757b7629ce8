"""`seqzoo bench`."""

import argparse
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from seqzoo.commands.command import (
    Command,
    add_config,
    add_data_dir,
    add_json,
    at_least,
    is_writer,
    table,
)
from seqzoo.commands.processes import EXPLANATION, add_processes, join
from seqzoo.configuration import load_config, to_json
from seqzoo.errors import UserError

DESCRIPTION = f"""\
Times the step that `seqzoo train` runs, on real training batches where the data is there (else on
full batches of random tokens), in a fresh process for each number of devices: tokens per second
with median and spread, the share of the devices' peak (MFU), compilation, input and transfer apart,
and the efficiency against the fewest devices. Where there is no accelerator the devices are
simulated, and the result says so. Writes scaling.json and scaling.png into the folder of --output.

strong scaling keeps the batch of the configuration whatever the devices; weak scaling gives every
device a batch of that size.

--input measures the data pipeline alone: examples per second, per core, and how many chips it feeds
where one step on N of them takes S seconds.

On several hosts every number of devices is a slice of its own: start the command on all hosts of
each slice, and join the results with --merge.
{EXPLANATION}
examples:
  seqzoo bench transformer_tiny_numerals --devices 1,2,4,8
  seqzoo bench transformer_base_wmt14_ende --devices 1,4,8 --scaling both --strategy jit,shard_map
  seqzoo bench transformer_base_wmt14_ende --synthetic --batch.tokens 8192 --json
  seqzoo bench transformer_tiny_numerals --input --step-seconds 0.05 --chips 8
  seqzoo bench --merge bench-8/scaling.json bench-16/scaling.json --output bench
"""

SCALINGS, STRATEGIES = ('strong', 'weak'), ('jit', 'shard_map', 'pmap')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `bench`."""
    add_config(parser, optional=True)  # --merge needs none
    parser.add_argument(
        '--devices',
        type=_counts,
        metavar='N,N',
        help='how many devices, one measurement each (default: all that there are)',
    )
    parser.add_argument(
        '--scaling', choices=(*SCALINGS, 'both'), default='strong', help='(default: strong)'
    )
    parser.add_argument(
        '--strategy',
        type=_strategies,
        default=('jit',),
        metavar='S,S',
        help=f'of {", ".join(STRATEGIES)} (default: jit)',
    )
    parser.add_argument(
        '--steps', type=at_least(2), default=5, metavar='K', help='steps of a round (default: 5)'
    )
    parser.add_argument(
        '--repeats', type=at_least(1), default=7, metavar='K', help='rounds (default: 7)'
    )
    parser.add_argument(
        '--synthetic', action='store_true', help='random tokens, also where there is data'
    )
    parser.add_argument(
        '--peak-flops',
        type=_positive,
        metavar='F',
        help='operations per second of one device, for the MFU (default: its data sheet)',
    )
    parser.add_argument('--input', action='store_true', help='measure the data pipeline alone')
    parser.add_argument(
        '--step-seconds',
        type=_positive,
        metavar='S',
        help='with --input: what a step takes, from a measurement or from seqzoo compile',
    )
    parser.add_argument(
        '--chips',
        type=at_least(1),
        metavar='N',
        help='with --input: on how many chips it takes that long (default: 1)',
    )
    parser.add_argument(
        '--merge', type=Path, nargs='+', metavar='F.json', help='join results instead of measuring'
    )
    parser.add_argument(
        '--output', type=Path, default=Path('bench'), metavar='D', help='(default: bench)'
    )
    add_data_dir(parser, cache=True)
    add_json(parser)
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measures, or joins what was measured."""
    if arguments.merge:
        if arguments.config or arguments.overrides:
            raise UserError('--merge joins results as they are; leave CONFIG and its options out')
        from seqzoo.analysis.scaling import merged

        result = merged(arguments.merge)
        _make(arguments.output)
        return _report(result, arguments)
    if arguments.config is None:
        raise UserError('missing: CONFIG (see `seqzoo bench --help`)')
    if not arguments.input and (arguments.step_seconds or arguments.chips):
        raise UserError('--step-seconds and --chips belong to --input; add it, or leave them out')
    if arguments.chips and not arguments.step_seconds:
        raise UserError('--chips says on how many chips --step-seconds is; give that too')
    if 0 in (arguments.devices or ()) and not arguments.worker:
        raise UserError('--devices counts from 1 on; leave it out to measure all that there are')
    experiment = load_config(arguments.config, arguments.overrides)
    if arguments.input:
        return _measure_input(experiment, arguments)
    if arguments.worker:
        from seqzoo.analysis.bench_processes import serve

        bench = _bench(experiment, arguments, arguments.devices[0] or None)
        serve(_in_memory(bench.prepare), bench.round, sys.stdin)
        return 0
    _make(arguments.output)  # before the minutes that a measurement takes
    join(arguments)
    import jax

    # Asking for devices would take them, and they belong to the processes that measure.
    if jax.distributed.is_initialized():
        return _measure_together(experiment, arguments)
    return _measure_apart(experiment, arguments)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'{folder} cannot be a folder ({error.strerror or error}); give another --output'
        ) from error


def _measure_apart(experiment: Any, arguments: argparse.Namespace) -> int:
    """In a fresh process for each number of devices, all on this machine."""
    from seqzoo.analysis.bench_processes import Worker, take_turns
    from seqzoo.analysis.scaling import measurements

    counts = arguments.devices or (None,)
    starts = [functools.partial(Worker, _words(arguments, n), n or 1) for n in counts]
    found = take_turns(starts, arguments.repeats, said=functools.partial(print, file=sys.stderr))
    ready = found[0][0]
    entries = [entry for said, rounds in found for entry in measurements(said, rounds)]
    return _report(_result(experiment, arguments, ready, entries), arguments)


def _measure_together(experiment: Any, arguments: argparse.Namespace) -> int:
    """In the processes of this slice, which have all its devices."""
    import jax

    from seqzoo.analysis.scaling import measurements

    total = jax.device_count()
    if arguments.devices not in (None, (total,)):
        raise UserError(
            f'{jax.process_count()} processes have {total} devices together, and each number of '
            f'devices is a slice of its own: leave --devices out, and join with --merge'
        )
    bench = _bench(experiment, arguments, total)
    ready = _in_memory(bench.prepare)()
    rounds = [bench.round() for _ in range(arguments.repeats)]
    if not is_writer():
        return 0
    result = _result(experiment, arguments, ready, measurements(ready, rounds))
    return _report(result, arguments)


def _bench(experiment: Any, arguments: argparse.Namespace, count: int | None) -> Any:
    from seqzoo.analysis.throughput import Bench, Settings, find_data

    settings = Settings(
        scalings=_scalings(arguments.scaling),
        strategies=arguments.strategy,
        steps=arguments.steps,
        peak_flops=arguments.peak_flops,
    )
    source = find_data(
        experiment,
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        synthetic=arguments.synthetic,
    )
    return Bench(experiment, count, settings, source)


def _scalings(chosen: str) -> Any:
    return SCALINGS if chosen == 'both' else (chosen,)


def _in_memory(prepare: Any) -> Any:
    """`prepare`, which says in a sentence that something does not fit."""

    @functools.wraps(prepare)
    def checked() -> Any:
        try:
            return prepare()
        except RuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            raise UserError(
                'the step does not fit into the memory of the devices; lower --batch.tokens, raise '
                '--train.accumulation or set --model.remat'
            ) from error

    return checked


def _words(arguments: argparse.Namespace, count: int | None) -> list[str]:
    """The command line of a process that measures one number of devices."""
    words = ['bench', arguments.config, *arguments.overrides, '--worker']
    words += ['--devices', str(count or 0), '--scaling', arguments.scaling]
    words += ['--strategy', ','.join(arguments.strategy), '--steps', str(arguments.steps)]
    for name in ('data_dir', 'cache_dir', 'peak_flops'):
        if (value := getattr(arguments, name)) is not None:
            words += [f'--{name.replace("_", "-")}', str(value)]
    return [*words, '--synthetic'] if arguments.synthetic else words


def _result(
    experiment: Any, arguments: argparse.Namespace, ready: Any, entries: list[Any]
) -> dict[str, Any]:
    from seqzoo.analysis.scaling import KIND, with_efficiency
    from seqzoo.analysis.throughput import FORMULA

    return with_efficiency(
        {
            'kind': KIND,
            'config': arguments.config,
            'experiment': json.loads(to_json(experiment)),
            'data': ready['data'],
            'platform': ready['platform'],
            'device_kind': ready['device_kind'],
            'cores': os.cpu_count(),
            'repeats': arguments.repeats,
            'compilation_cache': bool(os.environ.get('JAX_COMPILATION_CACHE_DIR')),
            'mfu_formula': FORMULA,
            'measurements': entries,
        }
    )


def _report(result: dict[str, Any], arguments: argparse.Namespace) -> int:
    from seqzoo.analysis.scaling import caution, rows, scaling_curves

    folder = arguments.output
    scaling_curves(result, folder / 'scaling.png')
    text = json.dumps(result, ensure_ascii=False)
    try:
        (folder / 'scaling.json').write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise UserError(
            f'{folder} cannot be written ({error.strerror or error}); give another --output'
        ) from error
    if arguments.json:
        print(text)
        return 0
    print(f'{result["config"]} on {result["device_kind"]}; {result["data"]}\n')
    print(table(rows(result)))
    if any(m['mfu'] is None for m in result['measurements']):
        print(f'\nThe peak of {result["device_kind"]} is not known: no MFU; give --peak-flops.')
    else:
        print(f'\n{result["mfu_formula"]}.')
    if result['compilation_cache']:
        print('A compilation cache is set: compile s may be what reading it took.')
    if sentence := caution(result):
        print(f'\n{sentence}')
    print(f'\n{folder / "scaling.json"}\n{folder / "scaling.png"}')
    return 0


def _measure_input(experiment: Any, arguments: argparse.Namespace) -> int:
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # no device takes part: leave them to others
    from seqzoo.analysis.input_speed import in_words, measure_input
    from seqzoo.analysis.throughput import find_data

    source = find_data(
        experiment,
        data_dir=arguments.data_dir,
        cache_dir=arguments.cache_dir,
        synthetic=arguments.synthetic,
    )
    result = measure_input(
        experiment,
        source,
        steps=arguments.steps,
        repeats=arguments.repeats,
        step_seconds=arguments.step_seconds,
        chips=arguments.chips or 1,
    )
    result = {'config': arguments.config, 'cores': os.cpu_count(), **result}
    print(json.dumps(result, ensure_ascii=False) if arguments.json else table(in_words(result)))
    return 0


def _counts(text: str) -> tuple[int, ...]:
    words = text.split(',')
    # The process that measures all devices is told 0.
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a list of different whole numbers such as 1,2,4,8'
        )
    return tuple(sorted(map(int, words)))


def _strategies(text: str) -> tuple[str, ...]:
    words = tuple(text.split(','))
    if unknown := [word for word in words if word not in STRATEGIES]:
        raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(STRATEGIES)}')
    return tuple(dict.fromkeys(words))


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return number


COMMAND = Command(
    'bench',
    'measure speed and scaling of the step, and of its input',
    DESCRIPTION,
    add_arguments,
    run,
    ('',),
)
