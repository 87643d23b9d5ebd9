"""Orbax checkpoints of a whole run: everything that the next step depends on, and what it is."""

import contextlib
import json
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from hyperface.errors import InputError
from hyperface.train import distributed
from hyperface.train.contents import (
    check_same,
    check_sums,
    contents,
    described,
    template,
    with_contents,
)
from hyperface.train.state import TrainState

KEEP = 2


class CorruptCheckpoint(InputError):
    """A checkpoint that cannot be read, or whose numbers are not those that were saved."""


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; use as a context manager.

    Each holds "state" (parameters, optimiser, random key, step, moving averages) and "meta" (the
    experiment, the data it was made with, and a checksum of every array: Orbax restores flipped
    bits without a word). Saving is asynchronous and atomic: a killed save leaves the previous
    checkpoint as the newest.

    Args:
      folder: the checkpoints' own folder.
      read_only: for a reader beside a running trainer: nothing in the folder is touched.
      keep: steps whose checkpoints stay; of others only the newest two and the one of the lowest
        score do.
      say: is told of each checkpoint that is not used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        keep: Sequence[int] = (),
        say: Callable[[str], None] = lambda line: None,
    ):
        self._folder = folder.absolute()
        self._say = say
        self._read_only = read_only
        if not read_only:
            if distributed.is_writer():
                self._set_broken_steps_aside()
            distributed.wait_for_all("checkpoints")
        self._best = _Best()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else _preserving(keep, self._best),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )
        self._find_best()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._saving():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
                if not self._read_only:
                    self._remove_unfinished()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, rising."""
        return sorted(s for s in self._manager.all_steps() if _is_whole(self._folder / str(s)))

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; None where there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the lowest finite score; None where no whole checkpoint has one."""
        self._find_best()
        return self._best.step

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None
    ) -> None:
        """Saves after `step` optimiser steps; returns once the state is copied off the devices.

        Args:
          step: steps done.
          state: after them.
          meta: what the checkpoint is to say it is.
          score: what `best` goes by, lower is better; None or not finite is never best.

        Raises:
          InputError: this save, or the one before it, could not be written. The checkpoints that
            were whole still are.
        """
        arrays = contents(state)
        meta = meta | {"arrays": described(arrays)} | ({} if score is None else {"score": score})
        self._best.consider(step, score)
        with self._saving():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    meta=ocp.args.JsonSave(meta | {"checksum": _meta_sum(meta)}),
                ),
            )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}")

    def wait(self) -> None:
        """Returns once what is being saved is on disk.

        Raises:
          InputError: it could not be written.
        """
        with self._saving():
            self._manager.wait_until_finished()

    def meta(self, step: int) -> dict[str, Any]:
        """What the checkpoint says it is.

        Raises:
          CorruptCheckpoint: it cannot be read, or was changed.
        """
        meta = self._read_meta(step)
        del meta["arrays"]
        return meta

    def restore(
        self, step: int, like: TrainState, sharding: jax.sharding.Sharding | TrainState
    ) -> TrainState:
        """The state saved at `step`.

        Args:
          step: one of this folder's.
          like: a state, or its shapes, of the run that continues; its static parts are kept.
          sharding: where the arrays go: one for all, or shapes that have theirs, whose rows beyond
            the checkpoint's become zeros. The checkpoint may come from other devices; each process
            reads what its own hold.

        Raises:
          InputError: names, shapes or dtypes differ: the checkpoint is of another model. Orbax
            alone would cast a dtype silently.
          CorruptCheckpoint: it cannot be read, or an array is not as it was saved.
        """
        wanted = contents(like)
        arrays = self._read_meta(step)["arrays"]
        check_same(wanted, arrays, self._folder / str(step))
        with self._reading(step):
            padding = ocp.args.StandardRestore(template(wanted, sharding), strict=False)
            args = ocp.args.Composite(state=padding)
            saved = self._manager.restore(step, args=args).state
            check_sums(saved, wanted, arrays)
        return with_contents(like, saved)

    def restore_newest(
        self, like: TrainState, sharding: jax.sharding.Sharding | TrainState
    ) -> tuple[int, TrainState] | None:
        """The newest checkpoint that is sound, as (step, state); None where there is none.

        Newer ones that are not are set aside, and said; the run makes those steps again.

        Raises:
          InputError: the newest sound one is of another model.
        """
        for step in reversed(self.steps()):
            try:
                return step, self.restore(step, like, sharding)
            except CorruptCheckpoint as error:
                self._set_aside(self._folder / str(step), str(error))
                distributed.wait_for_all(f"set aside {step}")
                self._manager.reload()
                self._find_best()
        return None

    def _read_meta(self, step: int) -> dict[str, Any]:
        with self._reading(step):
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            meta = self._manager.restore(step, args=args).meta
            checksum = meta.pop("checksum", None)
            if checksum not in (None, _meta_sum(meta)):
                raise ValueError("meta changed")
        if checksum is None:  # Not damaged: nothing may set it aside.
            raise InputError(
                f"{self._folder / str(step)}: expected a checkpoint with checksums, found one of "
                "an earlier version. Use it with that version, or pass --fresh to train again."
            )
        return meta

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """A damaged checkpoint fails in Orbax, TensorStore or json, each in its own way."""
        try:
            yield
        except Exception as error:
            advice = " Take another step of the run." if self._read_only else ""
            raise CorruptCheckpoint(
                f"{self._folder / str(step)}: expected a whole checkpoint, found a damaged one "
                f"({_reason(error)}).{advice}"
            ) from error

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """A full disk fails in Orbax or TensorStore, each in its own way."""
        try:
            yield
        except Exception as error:
            latest = self.latest() or 0
            # Orbax measures its patience by the wall clock, which may be set forward meanwhile.
            late = isinstance(error, TimeoutError)
            needed = "time, by a clock that nobody sets," if late else "room and permission"
            raise InputError(
                f"expected {needed} to save in {self._folder}, found: {_reason(error)}. The "
                f"newest whole checkpoint is of step {latest}; mend that, and the same command "
                "goes on from there."
            ) from error

    def _unfinished(self) -> list[Path]:
        return sorted(self._folder.glob("*.orbax-checkpoint-tmp*"))

    def _find_best(self) -> None:
        self._best.step = None
        for step in self.steps():
            with contextlib.suppress(InputError):  # It is said where it is used.
                self._best.consider(step, self._read_meta(step).get("score"))

    def _remove_unfinished(self) -> None:
        """What a failed save leaves would keep the disk full."""
        for _ in range(20):
            for path in self._unfinished():
                shutil.rmtree(path, ignore_errors=True)
            if not self._unfinished():
                break
            time.sleep(0.1)  # Other arrays of that save are still being written.

    def _set_broken_steps_aside(self) -> None:
        """Step folders without content would pass for the newest checkpoint."""
        for path in self._unfinished():
            self._say(f"{path}: a save that was cut short is ignored.")
        for path in self._folder.glob("[0-9]*"):
            if path.name.isdigit() and not _is_whole(path):
                self._set_aside(path, f"{path}: expected a whole checkpoint, found parts of one.")

    def _set_aside(self, path: Path, why: str) -> None:
        aside = path.with_name(f"broken-{path.name}")
        if distributed.is_writer():
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
        self._say(f"{why} It is kept as {aside.name}; the one before it is used.")


class _Best:
    """Preserves the step of the lowest score; Orbax's own rule deletes it where a score is NaN."""

    step: int | None = None
    score = math.inf

    def consider(self, step: int, score: float | None) -> None:
        if score is not None and (self.step is None or score < self.score) and math.isfinite(score):
            self.step, self.score = step, score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [found.step == self.step for found in checkpoints]


def _preserving(steps: Sequence[int], best: _Best) -> policies.PreservationPolicy:
    kept = [policies.LatestN(KEEP), policies.CustomSteps(steps), best]
    return policies.AnyPreservationPolicy(kept)


def _is_whole(folder: Path) -> bool:
    return all((folder / item).is_dir() for item in ("state", "meta"))


def _meta_sum(meta: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _reason(error: Exception) -> str:
    """The end of the first line: TensorStore starts with a page of paths."""
    first = str(error).strip().partition("\n")[0]
    return first.rsplit(": ", 1)[-1][:200] or type(error).__name__
