"""`seqzoo plot`."""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from seqzoo.buckets import place, push
from seqzoo.commands.command import Command, add_data_dir
from seqzoo.commands.reporting import say
from seqzoo.errors import UserError

DESCRIPTION = """\
Reads run folders and writes PNG files, whose names it prints. For one run, into R/pictures/:
  loss.png            training and dev loss over the steps
  attention.png       where the decoder looks while it translates a sentence
  self_attention.png  the same within the sentence, one map per head of a layer of the encoder
  captions.png        images of the test split, their captions, and where the model looks
  positions.png       the sinusoidal position table, 60 positions by 32 columns
  sounds.png          spectrograms: a sound of each class, one of the test split and a generated one
  forecast.png        a series, its forecasts one step ahead, and several steps from its end
What a run's model or task does not have is left out. For several runs: one picture with all their
loss curves, into the folder of --output.

--gradients adds gradients.png, with its numbers in gradients.md and .json: how much of the gradient
of the last loss is left at earlier states of the runs' recurrent layers, untrained and trained,
with and without clipping. Without any run it draws the same of simple networks, GRU and LSTM as
they start, at several scales.

examples:
  seqzoo plot runs/demo
  seqzoo plot runs/demo --sentence 'three hundred and forty-two' --layer 0
  seqzoo plot runs/base runs/big runs/small --output runs/pictures
  seqzoo plot runs/adding --gradients
  seqzoo plot --gradients --output pictures
"""

_SCENES = 5  # as many fit a page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `plot`."""
    parser.add_argument('runs', type=place, nargs='*', metavar='R', help='run folders')
    parser.add_argument(
        '--sentence', metavar='TEXT', help='the input to draw (default: one of the test split)'
    )
    parser.add_argument(
        '--layer',
        type=int,
        metavar='L',
        help='draw this layer, from 0, or from the top with -1 (default: the mean of all layers '
        'for attention.png, the last one for self_attention.png)',
    )
    parser.add_argument('--gradients', action='store_true', help='draw gradients through time, too')
    parser.add_argument(
        '--output', type=Path, metavar='D', help='folder of the pictures (default: R/pictures)'
    )
    add_data_dir(parser)


def run(arguments: argparse.Namespace) -> int:
    """Draws; prints the names of the files."""
    if not arguments.runs:
        return _gradients_of_cells(arguments)
    from seqzoo.analysis.pictures import loss_curve
    from seqzoo.training.events import METRICS_FILE, read_events
    from seqzoo.training.run_folder import opened

    arguments.runs = [opened(run, 'the run') for run in arguments.runs]
    for folder in arguments.runs:
        if not (folder / METRICS_FILE).is_file():
            raise UserError(f'{folder} is not the folder of a run: it has no {METRICS_FILE}')
    pictures = arguments.output or arguments.runs[0] / 'pictures'
    curves = [(folder.name or str(folder), read_events(folder)) for folder in arguments.runs]
    several = len(curves) > 1
    path = pictures / ('loss_of_several_runs.png' if several else 'loss.png')
    loss_curve(curves, path)
    print(path)
    if not several:
        for path in _model_pictures(arguments, pictures):
            print(path)
    if arguments.gradients:
        _print_gradients_of_runs(arguments, pictures)
    push(arguments.runs[0])  # where it stands for one in a bucket
    return 0


def _gradients_of_cells(arguments: argparse.Namespace) -> int:
    if not arguments.gradients:
        raise UserError('missing: R (see `seqzoo plot --help`)')
    if arguments.output is None:
        raise UserError('say with --output where the picture of the gradients shall go')
    from seqzoo.analysis.gradient_pictures import draw_cells

    for path in draw_cells(arguments.output):
        print(path)
    return 0


def _print_gradients_of_runs(arguments: argparse.Namespace, pictures: Path) -> None:
    from seqzoo.analysis.gradient_pictures import draw_runs
    from seqzoo.training import load_run

    loaded = {
        folder.name: load_run(folder, data_dir=arguments.data_dir, splits=('train',))
        for folder in arguments.runs
    }
    for path in draw_runs(loaded, pictures):
        print(path)


def _model_pictures(arguments: argparse.Namespace, pictures: Path) -> Iterator[Path]:
    """Draws what needs the trained model, as far as this model has it."""
    from seqzoo.analysis.pictures import position_table
    from seqzoo.tasks.audio import AudioModeling
    from seqzoo.tasks.captioning import Captioning
    from seqzoo.tasks.forecasting import Forecasting
    from seqzoo.training import load_run

    loaded = load_run(arguments.runs[0])
    if isinstance(loaded.experiment.task, Captioning):
        yield from _caption_pictures(arguments, pictures, loaded)
        return
    if isinstance(loaded.experiment.task, Forecasting):
        yield from _forecast_pictures(arguments, pictures)
        return
    if isinstance(loaded.experiment.task, AudioModeling):
        yield from _sound_pictures(arguments, pictures, loaded)
        return
    yield from _attention_pictures(arguments, pictures, loaded)
    if getattr(loaded.experiment.model, 'positions', None) == 'sinusoidal':
        path = pictures / 'positions.png'
        position_table(60, 32, path)
        yield path


def _caption_pictures(arguments: argparse.Namespace, pictures: Path, loaded: Any) -> Iterator[Path]:
    from seqzoo.analysis.caption_pictures import attended_places, caption_picture
    from seqzoo.training.run_folder import default_data_dir

    task = loaded.experiment.task
    try:
        scenes = task.corpus.read('test', default_data_dir(arguments.data_dir))
    except UserError as error:
        say(f'no captions were drawn: {error}')
        return
    images = scenes.images[:_SCENES]
    captions = [found.text for found in task.caption(loaded.runtime, loaded.prepared, images)]
    places = None
    if loaded.experiment.model.attention != 'none':
        places = attended_places(loaded, images, captions)
    path = pictures / 'captions.png'
    caption_picture(images, captions, places, scenes.captions[:_SCENES], path)
    yield path


def _sound_pictures(arguments: argparse.Namespace, pictures: Path, loaded: Any) -> Iterator[Path]:
    from seqzoo.analysis.spectrograms import draw_run
    from seqzoo.training.run_folder import default_data_dir

    try:
        yield draw_run(loaded, pictures / 'sounds.png', default_data_dir(arguments.data_dir))
    except UserError as error:
        say(f'no sounds were drawn: {error}')


def _forecast_pictures(arguments: argparse.Namespace, pictures: Path) -> Iterator[Path]:
    from seqzoo.analysis.forecast_pictures import draw_run
    from seqzoo.training import load_run

    try:
        loaded = load_run(arguments.runs[0], data_dir=arguments.data_dir, splits=('test',))
    except UserError as error:
        say(f'no forecast was drawn: {error}')
        return
    yield draw_run(loaded, pictures / 'forecast.png', arguments.data_dir)


def _attention_pictures(
    arguments: argparse.Namespace, pictures: Path, loaded: Any
) -> Iterator[Path]:
    from seqzoo.analysis.alignment import align
    from seqzoo.analysis.pictures import attention_heads, attention_map
    from seqzoo.models.base import Seq2Seq

    if arguments.sentence is None and not isinstance(loaded.runtime.model, Seq2Seq):
        return
    try:
        sentence = arguments.sentence or _example(loaded.experiment.task, arguments.data_dir)
        output = loaded.predict([sentence])[0].text
        pair = next(align(loaded, [sentence], [output]))
        path = pictures / 'attention.png'
        weights = pair.cross(arguments.layer)
        attention_map(weights, pair.source_tokens, pair.target_tokens, path)
        yield path
        if pair.weights.encoder is None:  # a recurrent one
            return
        layer = -1 if arguments.layer is None else arguments.layer
        path = pictures / 'self_attention.png'
        heads = pair.encoder_heads(layer)
        attention_heads(
            heads,
            pair.source_tokens,
            pair.source_tokens,
            path,
            source_label='token attended to',
            target_label='token attending',
        )
        yield path
    except UserError as error:
        if arguments.sentence is not None:
            raise
        say(f'no attention was drawn: {error}')


def _example(task: Any, data_dir: Path | None) -> str:
    """The first sentence of the test split that is neither dull nor too long for a page."""
    corpus = getattr(task, 'corpus', None)
    if corpus is None:
        raise UserError('say with --sentence what to draw')
    from seqzoo.training.run_folder import default_data_dir

    text = corpus.pairs(
        'test', task.source_language, task.target_language, default_data_dir(data_dir)
    )
    for line in islice(text.source, 1000):
        if 5 <= len(line.split()) <= 12:
            return line
    raise UserError(
        'the test split has no sentence of 5 to 12 words; say with --sentence what to draw'
    )


COMMAND = Command(
    'plot', 'draw loss curves, attention and position tables', DESCRIPTION, add_arguments, run
)
