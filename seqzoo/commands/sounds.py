"""Predictions that are sounds: WAV files, and one picture of their spectrograms."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqzoo.errors import UserError


def is_sound(path: Path | None) -> bool:
    """Whether the name of an output asks for WAV files."""
    return path is not None and path.suffix.lower() == '.wav'


def refuse_without_sounds(loaded: Any, output: Path) -> None:
    """Refuses before anything is predicted what could not be written.

    Raises:
        UserError: the run makes no sounds.
    """
    from seqzoo.tasks.audio import AudioModeling

    if not isinstance(loaded.experiment.task, AudioModeling):
        raise UserError(
            f'{output} would be a sound, but this run does not make any; give --output another '
            'name, or take a run of a WaveNet'
        )


def write_sounds(
    loaded: Any, predictions: Sequence[Any], output: Path, picture: Path | None
) -> list[Path]:
    """Writes `x.wav`, or `x-1.wav`, `x-2.wav`, ... for several sounds, and `x.png`.

    Args:
        loaded: the run.
        predictions: of its task; alternatives are sounds, too, blank ones are none.
        output: the name, which ends in `.wav`.
        picture: where the spectrograms go, if not beside the sounds.

    Returns:
        The names of the files.

    Raises:
        UserError: the run was asked for no sound.
    """
    from seqzoo.analysis.spectrograms import spectrogram_picture
    from seqzoo.data.audio import write_wav
    from seqzoo.tasks.audio import sound_of

    task = loaded.experiment.task
    found = [one for p in predictions for one in (p, *p.alternatives) if one.text]
    if not found:
        raise UserError('there is no record: give one line for each sound, such as "rising 0.5"')
    rate, sounds = loaded.prepared.learnt['rate'], [sound_of(one, task.levels) for one in found]
    files = [output]
    if len(found) > 1:
        files = [output.with_stem(f'{output.stem}-{i}') for i in range(1, len(found) + 1)]
    for path, samples in zip(files, sounds, strict=True):
        write_wav(path, samples, rate)
    picture = picture or output.with_suffix('.png')
    titled = [[(one.text, samples)] for one, samples in zip(found, sounds, strict=True)]
    spectrogram_picture(titled, rate, picture)
    return [*files, picture]
