"""Checkpoints of a run: written in the background, checked byte by byte when read.

Orbax does the writing (`CheckpointManager`, its first API); this wrapper adds what a long run needs
and Orbax leaves open:

- the newest N *and* the best survive (`retention`);
- every checkpoint carries the checksums of its files, written before it is committed
  (`integrity`);
- a damaged checkpoint is named in a warning and the next older good one is used;
- a step that is saved again, after going back to an older checkpoint, replaces what was there.

A checkpoint is a folder `STEP/` with `state/` (any pytree of arrays) and `meta/metadata` (JSON: the
caller's object and the metrics).
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from seqzoo import buckets
from seqzoo.errors import UserError
from seqzoo.parallel import agreement
from seqzoo.training import integrity
from seqzoo.training.orbax_manager import LAST_WORDS_SECONDS, Manager, cause, ignore_closed_loops
from seqzoo.training.retention import Retention

PyTree = Any

SET_ASIDE = 'set-aside'
_COMMITTED = 'commit_success.txt'  # by which Orbax ends a save in a bucket
_log = logging.getLogger('seqzoo.training')


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held.

    Attributes:
        step: The number of updates that `state` has seen.
        state: The tree that was asked for, on the shardings that were asked for.
        meta: The JSON object given to `Checkpoints.save`.
    """

    step: int
    state: PyTree
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder.

    One live run writes to a folder (see `lock.RunLock`); any number of processes may read with
    `read_only=True`. With several JAX processes, all of them make the same calls in the same order.
    """

    def __init__(
        self,
        folder: Any,
        *,
        keep: int = 2,
        keep_best: int = 1,
        best_metric: str | None = None,
        best_mode: Literal['min', 'max'] = 'max',
        read_only: bool = False,
        bytes_at_once: int | None = None,
    ) -> None:
        """Opens a folder, and clears away what an interrupted save left in it.

        Args:
            folder: Where the checkpoints are, also in a bucket (`buckets.path_of`); made if it
                does not exist, unless `read_only`.
            keep: How many of the newest survive; at least 1.
            keep_best: How many of the best by `best_metric` survive beside them.
            best_metric: The name of a metric given to `save`, or None to go by age alone.
            best_mode: Whether a higher or a lower metric is better.
            read_only: Only read; leaves a save that another process has in progress alone.
            bytes_at_once: How much a save may copy at a time, at least the largest array; None
                copies all at once, which is faster.
        """
        self.folder: Any = Path(folder).absolute()
        if buckets.in_bucket(folder):
            self.folder = buckets.path_of(folder)
        self._retention = Retention(keep, keep_best, best_metric, best_mode)
        self._read_only = read_only
        self._bytes_at_once = bytes_at_once
        self._saving: int | None = None
        self._saving_metrics: dict[str, float] = {}
        self._gave_up = False
        self._manager = self._open()

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Writing

    def save(
        self,
        step: int,
        state: PyTree,
        meta: Mapping[str, Any],
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save; returns as soon as the arrays may be donated or changed.

        The caller answers for `state` being finite. A failure shows in this call or in the next of
        `save`, `wait` and `close`; what was there before is kept.

        Args:
            step: The number of updates that `state` has seen.
            state: Any pytree of JAX arrays, typed PRNG keys included.
            meta: Any JSON object: data position, fingerprints, history.
            metrics: Numbers by name; the one called `best_metric` decides what is best. NaN counts
                as absent.

        Raises:
            UserError: the file system refused this save or the one before.
        """
        if self._read_only:
            raise RuntimeError('these checkpoints were opened to read only')
        ignore_closed_loops()
        self.wait()
        self._set_aside_from(step)
        finite = {name: float(value) for name, value in (metrics or {}).items()}
        finite = {name: value for name, value in finite.items() if np.isfinite(value)}
        with self._failures_named(step):
            self._saving, self._saving_metrics = step, finite
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    meta=ocp.args.JsonSave({'meta': dict(meta), 'metrics': finite}),
                ),
                force=True,  # our cadence, not Orbax's
            )

    def wait(self) -> None:
        """Returns when the save in progress is committed.

        Raises:
            UserError: it failed.
        """
        with self._failures_named(self._saving):
            self._manager.wait_until_finished()
        if self._saving is not None and agreement.is_first():
            # What the save replaced was worth keeping only until now.
            _remove(self.folder / SET_ASIDE)
        self._saving = None

    def close(self) -> None:
        """Waits for the save in progress and stops the threads behind it."""
        if self._gave_up:
            return
        try:
            self.wait()
        finally:
            if not self._gave_up:
                self._manager.close()

    # Reading

    def steps(self) -> list[int]:
        """The steps of the committed checkpoints, oldest first; nothing is said about damage."""
        self.wait()
        return self._committed()

    def _committed(self) -> list[int]:
        return committed_steps(self.folder)

    def latest(self) -> int | None:
        """The newest committed step."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best `best_metric`, the newest of equals; None if no step has it."""
        return self._retention.best({step: self._metrics(step) for step in self.steps()})

    def has_metrics(self, step: int) -> bool:
        """Whether metrics were saved with the checkpoint of a step."""
        return json.loads(agreement.from_first(json.dumps(bool(self._metrics(step)))))

    def restore(self, abstract_state: PyTree, step: int | None = None) -> Restored | None:
        """Reads the newest good checkpoint.

        Args:
            abstract_state: The tree to read as `jax.ShapeDtypeStruct`s; their shardings say where
                each array goes, and need not be those it was saved from. Without a sharding it goes
                to the first local device.
            step: Read this one and no other.

        Returns:
            None if there is no checkpoint at all.

        Raises:
            UserError: there are checkpoints but none is good, or they belong to a model of other
                shapes.
        """
        return self._restore(abstract_state, step, partial=False)

    def restore_part(
        self, abstract_part: Mapping[str, PyTree], step: int | None = None
    ) -> Restored | None:
        """Like `restore`, for some fields of the state: `{'params': ..., 'variables': ...}`."""
        return self._restore(dict(abstract_part), step, partial=True)

    def restore_params(self, abstract_params: PyTree, step: int | None = None) -> Restored | None:
        """Reads the parameters alone, without the optimizer's state; otherwise like `restore`."""
        restored = self.restore_part({'params': abstract_params}, step)
        return restored and dataclasses.replace(restored, state=restored.state['params'])

    # How it is done

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._retention.policy(self._metrics),
            # Orbax would read the metadata of every step, and fail if one of them is damaged.
            lightweight_initialize=True,
            create=not self._read_only,
            cleanup_tmp_directories=not self._read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        handlers = {
            'state': ocp.PyTreeCheckpointHandler(
                save_concurrent_gb=self._bytes_at_once and self._bytes_at_once / 1e9  # type: ignore[arg-type]
            ),
            'meta': ocp.JsonCheckpointHandler(),
        }
        try:
            return Manager(self.folder, options=options, item_handlers=handlers)
        except OSError as error:
            raise UserError(
                f'cannot keep checkpoints in {self.folder}: {error.strerror or error}; '
                'give --run a folder that can be written'
            ) from error

    def _metrics(self, step: int) -> dict[str, float]:
        if step == self._saving:
            return self._saving_metrics
        try:
            metadata = (self.folder / str(step) / 'meta' / 'metadata').read_text()
            return json.loads(metadata)['metrics']
        except (OSError, ValueError, KeyError):
            return {}  # damaged: not among the best, and noticed on reading

    def _write_checksums(self) -> None:
        """Called by Orbax when all files of a save are there, before the folder gets its name."""
        if jax.process_index() != 0:
            return
        # In a bucket, where nothing can be renamed, it has its name from the beginning.
        saving = f'{self._saving}' + '.orbax-checkpoint-tmp*' * (not buckets.in_bucket(self.folder))
        for folder in self.folder.glob(saving):
            integrity.write_checksums(folder)

    def _restore(self, abstract: PyTree, step: int | None, *, partial: bool) -> Restored | None:
        abstract = jax.tree.map(_placed, abstract)
        steps = json.loads(agreement.from_first(json.dumps(self.steps())))
        if step is not None and step not in steps:
            raise UserError(
                f'{self.folder} has no checkpoint of step {step}; there are {_listed(steps)}'
            )
        found = []
        first = agreement.is_first()
        for candidate in [step] if step is not None else reversed(steps):
            found_damage = integrity.damage(self.folder / str(candidate)) if first else ''
            reason = agreement.from_first(found_damage)
            restored = None
            if not reason:
                try:
                    restored = self._load(candidate, abstract, partial=partial)
                except UserError:
                    raise
                # Orbax and TensorStore raise many kinds for broken files.
                except Exception as error:
                    reason = str(error).split('\n')[0][:200]
                failed_elsewhere = any(agreement.gather(reason))
                if restored is not None and not failed_elsewhere:
                    return restored
                reason = reason or 'another process cannot read it'
            if not (self.folder / str(candidate)).is_dir():
                continue  # the run that writes here has just deleted it, to keep its newest
            found.append(f'step {candidate}: {reason}')
            _log.warning(
                'checkpoint %s is damaged (%s); trying an older one',
                self.folder / str(candidate),
                reason,
            )
        if found:
            raise UserError(
                f'no good checkpoint in {self.folder} ({"; ".join(found)}); '
                'start a new run, or put back a copy'
            )
        return None

    def _load(self, step: int, abstract: PyTree, *, partial: bool) -> Restored:
        self._refuse_other_shapes(step, abstract, partial=partial)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    abstract,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                    partial_restore=partial,
                ),
                meta=ocp.args.JsonRestore(),
            ),
        )
        return Restored(step, items['state'], items['meta']['meta'])

    def _refuse_other_shapes(self, step: int, abstract: PyTree, *, partial: bool) -> None:
        stored = self._manager.item_metadata(step)['state']
        complaints = integrity.differences(stored.tree, abstract, partial=partial)
        if complaints:
            more = f' and {len(complaints) - 3} more' if len(complaints) > 3 else ''
            raise UserError(
                f'checkpoint {self.folder / str(step)} belongs to another model or optimizer '
                f'({"; ".join(complaints[:3])}{more}); '
                'use the configuration that it was trained with'
            )

    def _set_aside_from(self, step: int) -> None:
        """Moves checkpoints of `step` and later out of the way: the run went back behind them."""
        # Another process may look when the first has moved the folders already: the first decides.
        later = [
            old for old in json.loads(agreement.from_first(json.dumps(self.steps()))) if old >= step
        ]
        if not later:
            return
        if agreement.is_first():
            (self.folder / SET_ASIDE).mkdir(exist_ok=True)
            for old in later:
                target = self.folder / SET_ASIDE / str(old)
                _remove(target)
                (self.folder / str(old)).rename(target)
        agreement.first_does(lambda: None)  # the others wait until the folders have moved
        self._manager.close()
        self._manager = self._open()

    @contextlib.contextmanager
    def _failures_named(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            if step is None:
                raise
            # Orbax leaves writes behind that nobody waits for any more; Python would warn of it.
            warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
            self._saving = None
            if agreement.several():
                # The others wait for this process in Orbax's barriers. It must leave, so that they
                # hear of it; the next start clears away what is half written.
                self._gave_up = True
            else:
                # The manager believes in the step that failed: start again from what is on the
                # disk, which also clears away the half-written folder.
                self._manager = self._open()
            # Its threads report until their writes have failed too, past every hook once Python
            # has begun to end.
            time.sleep(LAST_WORDS_SECONDS)
            kept = _listed(self._committed())
            raise UserError(
                f'the checkpoint of step {step} could not be saved in {self.folder} '
                f'({cause(error)}); kept are {kept}: make room there and start the run again'
            ) from error


def committed_steps(folder: Any) -> list[int]:
    """The steps of the committed checkpoints in a folder, oldest first."""
    if buckets.in_bucket(folder):
        parts = (name.split('/') for name in buckets.listed(str(folder)))
        return sorted(int(p[0]) for p in parts if p[0].isdigit() and p[1:] == [_COMMITTED])
    if not folder.is_dir():
        return []
    # A save gets its plain number when it is committed.
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def _remove(folder: Any) -> None:
    if buckets.in_bucket(folder):
        with contextlib.suppress(OSError):
            folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, 'sharding', None) or jax.sharding.SingleDeviceSharding(
        jax.local_devices()[0]
    )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _listed(steps: list[int]) -> str:
    return 'those of steps ' + ', '.join(map(str, steps)) if steps else 'none'
