"""`seqzoo predict`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqzoo.buckets import place
from seqzoo.commands.command import RUNNING, Command, add_checkpoint, at_least, is_writer
from seqzoo.commands.lines import open_output, read_lines
from seqzoo.commands.processes import EXPLANATION, add_processes, join
from seqzoo.commands.reporting import examples_done
from seqzoo.commands.sounds import is_sound, refuse_without_sounds, write_sounds
from seqzoo.errors import UserError

DESCRIPTION = f"""\
Reads the run folder R and records, one a line, from --input or standard input; writes one line for
each, in the same order, empty lines included, to --output or standard output. Files whose names end
in .gz are unpacked. The tokenizer is in the run: no training data is needed.

With --scores a line is SCORE <tab> TEXT, the score being what the search ranked by. With --n-best N
there are up to N lines for a record, best first, and each begins with the record's number: RECORD
<tab> SCORE <tab> TEXT. --alignments adds <tab> SOURCE-TARGET pairs of piece numbers, from 0: for
each piece of the output the piece of the input that it attended to most. --target F does not
search: it gives the score that the outputs in F would have had. --json-lines writes all that is
known, as one object per record.

A classifier writes the class, its probability being the score; a tagger one tag for each word. A
classifier of pairs reads two texts with a tab between them.

A masked language model fills each [MASK] of a record, which may be two texts with [SEP] between
them; the score is the probability of the filling, --n-best N gives the next likeliest ones, and
--show-probabilities K the K likeliest pieces at each [MASK] with their shares.

A language model continues each line by at most --decode.extra-length tokens: the record and the
line that is written are the whole text. --show-probabilities does not continue it: it writes the K
most probable next tokens (10) with their shares in percent, and --picture F draws them. --stream
writes the same continuation while it is generated, K tokens (8) at a time, one record after the
other. An empty record begins a line; of one that is longer than the model has positions, beside the
continuation, the end is read.

A network of sounds reads the name of a class, and behind it how many seconds are wanted; with an
--output that ends in .wav it writes x.wav, or x-1.wav, x-2.wav, ... for several records, and their
spectrograms as x.png or to --picture F, and prints the names.

{EXPLANATION}
examples:
  echo 'three hundred and forty-two' | seqzoo predict runs/demo
  seqzoo predict runs/base --input test.en --output test.hyp --decode.beams 8
  seqzoo predict runs/base --input test.en --n-best 4 --decode.beams 4
  seqzoo predict runs/base --input test.en --decode.method sample --decode.temperature 0.8
  seqzoo predict runs/base --input test.en --target test.de
  echo 'this movie is so great' | seqzoo predict runs/imdb --scores
  echo "Let's make [MASK] chicken! [SEP] It [MASK] great" | seqzoo predict runs/bert --n-best 5
  echo 'ROMEO:' | seqzoo predict runs/plays --stream --decode.stop-at-end false
  echo 'I love to drink' | seqzoo predict runs/words --show-probabilities 5 --picture next.png
  echo 'rising 0.5' | seqzoo predict runs/tones --output rising.wav
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `predict`."""
    parser.add_argument('run', type=place, metavar='R', help='the run folder, or gs://BUCKET/RUN')
    parser.add_argument('--input', type=Path, metavar='F', help='default: standard input')
    parser.add_argument('--output', type=Path, metavar='F', help='default: standard output')
    parser.add_argument('--n-best', type=at_least(1), metavar='N', help='that many outputs each')
    parser.add_argument('--scores', action='store_true', help='say how the search ranked each')
    parser.add_argument('--alignments', action='store_true', help='say what each piece attended to')
    parser.add_argument('--target', type=Path, metavar='F', help='score these outputs instead')
    parser.add_argument(
        '--show-probabilities',
        type=at_least(1),
        nargs='?',
        const=10,
        metavar='K',
        help='the K most probable next tokens of a language model, or at each [MASK] (10)',
    )
    parser.add_argument('--picture', type=Path, metavar='F', help='a PNG of these, or of sounds')
    parser.add_argument(
        '--stream',
        type=at_least(1),
        nargs='?',
        const=8,
        metavar='K',
        help='write continuations while they are generated, K tokens at a time (8)',
    )
    add_checkpoint(parser)
    parser.add_argument(
        '--json-lines', action='store_true', help='one JSON object per record instead of text'
    )
    add_processes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predicts, and writes a line per record."""
    join(arguments)
    _refuse_combinations(arguments)
    records, targets = _read(arguments)
    from seqzoo.training import load_run

    overrides = list(arguments.overrides)
    if arguments.n_best is not None:
        overrides += ['--decode.n-best', str(arguments.n_best)]
    loaded = load_run(
        arguments.run, step=arguments.step, average_last=arguments.average, overrides=overrides
    )
    if is_sound(arguments.output):
        refuse_without_sounds(loaded, arguments.output)
    if arguments.show_probabilities is not None:
        return _show_probabilities(loaded, records, arguments)
    if arguments.alignments:
        from seqzoo.analysis.alignment import tokenizers_of

        tokenizers_of(loaded)  # refuses now what could not be aligned after an hour
    if arguments.stream is not None:
        return _stream(loaded, records, arguments)
    with examples_done('predict') as progress:
        if targets is None:
            predictions = loaded.predict(records, progress=progress)
        else:
            from seqzoo.analysis.rescoring import score_given

            predictions = score_given(loaded, records, targets)
    if arguments.alignments:
        predictions = _aligned(loaded, records, predictions)
    if not is_writer():
        return 0
    if is_sound(arguments.output):
        for path in write_sounds(loaded, predictions, arguments.output, arguments.picture):
            print(path)
        return 0
    with open_output(arguments.output) as file:
        for number, prediction in enumerate(predictions, 1):
            if arguments.json_lines:
                lines = iter([json.dumps(_as_object(prediction), ensure_ascii=False)])
            else:
                lines = _as_lines(prediction, number, arguments)
            file.writelines(f'{line}\n' for line in lines)
    return 0


def _refuse_combinations(arguments: argparse.Namespace) -> None:
    if arguments.stream is not None:
        for name in (
            'n_best',
            'scores',
            'alignments',
            'target',
            'show_probabilities',
            'json_lines',
        ):
            if getattr(arguments, name):
                raise UserError(
                    f'--stream writes text as it grows, and --{name.replace("_", "-")} what is '
                    'known at the end; leave one of them out'
                )
    if is_sound(arguments.output):
        for name in ('show_probabilities', 'scores', 'alignments', 'target', 'json_lines'):
            if getattr(arguments, name):
                raise UserError(
                    f'{arguments.output} is to be a sound, in which --{name.replace("_", "-")} has '
                    'no place; leave one of them out'
                )
        return
    if arguments.show_probabilities is None:
        if arguments.picture is not None:
            raise UserError(
                '--picture draws the next tokens or sounds; give --show-probabilities, or an '
                '--output that ends in .wav'
            )
        return
    for name in ('n_best', 'scores', 'alignments', 'target'):
        if getattr(arguments, name):
            raise UserError(
                f'--show-probabilities writes no outputs, so --{name.replace("_", "-")} has '
                'nothing to do; leave one of them out'
            )


def _show_probabilities(loaded: Any, records: Sequence[str], arguments: argparse.Namespace) -> int:
    from seqzoo.analysis.next_tokens import as_object, as_table, next_token_bars, next_tokens_of

    tables = next_tokens_of(loaded, records, arguments.show_probabilities)
    if not is_writer():
        return 0
    if arguments.picture is not None:
        next_token_bars(tables, arguments.picture)
    with open_output(arguments.output) as file:
        if arguments.json_lines:
            file.writelines(f'{json.dumps(as_object(t), ensure_ascii=False)}\n' for t in tables)
        else:
            file.write('\n\n'.join(map(as_table, tables)) + '\n' * bool(tables))
    return 0


def _stream(loaded: Any, records: Sequence[str], arguments: argparse.Namespace) -> int:
    """Writes what `predict` would, as it comes."""
    from seqzoo.parallel import agreement

    if agreement.several():
        raise UserError('--stream shows what one process generates; leave it out with several')
    with open_output(arguments.output) as file:
        shown = ''
        for grown in loaded.stream(records, steps=arguments.stream):
            line = _on_one_line(grown.text)
            if line.startswith(shown):
                file.write(line[len(shown) :])
                shown = line
            elif grown.prediction is not None:  # a tokenizer took back what it had said
                file.write(f'\n{line}')
            if grown.prediction is not None:
                file.write('\n')
                shown = ''
            file.flush()
    return 0


def _on_one_line(text: str) -> str:
    """Whatever a model may say."""
    return ' '.join(text.splitlines())


def _read(arguments: argparse.Namespace) -> tuple[list[str], list[str] | None]:
    """The records and the given outputs, read by the first process for all."""
    from seqzoo.parallel import agreement

    def read() -> tuple[list[str], list[str] | None]:
        records = read_lines(arguments.input)
        targets = None if arguments.target is None else read_lines(arguments.target)
        if targets is not None and len(targets) != len(records):
            raise UserError(
                f'{arguments.target} has {len(targets):,} lines but the input has '
                f'{len(records):,}; line i of one is the output for line i of the other'
            )
        return records, targets

    found = agreement.first_does(read)
    if not agreement.several():
        assert found is not None
        return found
    records, targets = json.loads(agreement.from_first(json.dumps(found)))
    return records, targets


def _aligned(loaded: Any, records: Sequence[str], predictions: list[Any]) -> list[Any]:
    """The predictions with the attention over the input under which each was written."""
    from seqzoo.analysis.alignment import align

    outputs = [output for p in predictions for output in (p, *p.alternatives)]
    sources = [s for s, p in zip(records, predictions, strict=True) for _ in (p, *p.alternatives)]
    found = iter(
        [
            replace(
                output,
                tokens=pair.target_tokens,
                source_tokens=pair.source_tokens,
                alignment=pair.cross(),
            )
            for output, pair in zip(
                outputs, align(loaded, sources, [o.text for o in outputs]), strict=True
            )
        ]
    )
    return [
        replace(next(found), alternatives=tuple(next(found) for _ in p.alternatives))
        for p in predictions
    ]


def _as_lines(prediction: Any, number: int, arguments: argparse.Namespace) -> Iterator[str]:
    """The lines of one record: one, or as many as `--n-best` asks for."""
    several = arguments.n_best is not None and arguments.n_best > 1
    kept = (prediction, *prediction.alternatives)[: arguments.n_best] if several else (prediction,)
    for output in kept:
        fields = [str(number)] if several else []
        if several or arguments.scores or arguments.target is not None:
            fields.append(f'{output.score:.4f}')
        fields.append(_on_one_line(output.text))
        if arguments.alignments:
            fields.append(_pairs(output.alignment))
        yield '\t'.join(fields)


def _pairs(alignment: Any) -> str:
    """`SOURCE-TARGET` numbers of pieces; the end mark of the output is left out."""
    return ' '.join(f'{row.argmax()}-{target}' for target, row in enumerate(alignment[:-1]))


def _as_object(prediction: Any) -> dict[str, Any]:
    value = {
        'text': prediction.text,
        'score': float(prediction.score),
        'log_prob': float(prediction.log_prob),
        'tokens': list(prediction.tokens),
        'source_tokens': list(prediction.source_tokens),
    }
    if prediction.alignment is not None:
        value['alignment'] = [[round(float(w), 5) for w in row] for row in prediction.alignment]
    value |= prediction.details
    if prediction.alternatives:
        value['alternatives'] = [_as_object(other) for other in prediction.alternatives]
    return value


COMMAND = Command(
    'predict', 'run a trained model on lines of text', DESCRIPTION, add_arguments, run, RUNNING
)
