"""Orbax checkpoints of a run: all state that the next step depends on, and its description."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from hyperface import owned
from hyperface.devices import processes
from hyperface.errors import InputError
from hyperface.orbax_layout import UNFINISHED, is_of_orbax
from hyperface.train.checkpoint.integrity import (
    CorruptCheckpoint,
    UnreadableCheckpoint,
    checksums,
    is_whole,
    read_step,
    reason,
    whole_steps,
)
from hyperface.train.checkpoint.stored import (
    Stored,
    check_sums,
    contents,
    described,
    meta_sum,
    with_contents,
)
from hyperface.train.state import TrainState

log = logging.getLogger("hyperface")

T = TypeVar("T")

# The newest may turn out to be damaged, and the run then goes back to the one before.
KEEP = 2


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; use as a context manager.

    Each checkpoint contains "state" (parameters, optimiser, random key, step, moving averages) and
    "meta" (the experiment, its data, and a checksum of every array, because Orbax restores flipped
    bits without an error). Saving is asynchronous and atomic: a killed save leaves the previous
    checkpoint as the newest. A warning is logged for each checkpoint that is not used.

    Args:
      folder: the folder of the checkpoints, which contains nothing else.
      read_only: whether nothing in the folder is changed, as a reader beside a running training
        needs it.
      keep: steps whose checkpoints are kept. Of the other checkpoints, only the newest two and the
        one with the lowest score are kept.
    """

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        keep: Sequence[int] = (),
    ) -> None:
        self._folder = folder.absolute()
        self._best = _Best()
        self._manager = None
        if read_only:  # A reader may want one step, and another's file may be out of reach.
            return
        check_path(self._folder)
        if processes.is_writer():
            # One process alone renames and removes.
            with owned.writing(folder):
                owned.adopt(self._folder, owned.CHECKPOINTS)
                self._take_in_copies()
                self._set_broken_steps_aside()
        # Orbax reads the list of steps when it opens the folder, which must be in order by then.
        processes.wait_for_all("checkpoints")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preserving(keep, self._best, self._folder),
                cleanup_tmp_directories=False,  # It would remove those of others too.
                # `owned.adopt` made it, and recorded that it is ours.
                create=False,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )
        self._find_best()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if self._manager is None:
            return
        several = processes.is_multiprocess()
        if several and error is not None and not isinstance(error, processes.AgreedStop):
            return  # The others are elsewhere, and a save would wait for them.
        with self._saving():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
                if not several:  # Else the next start does.
                    self._remove_unfinished()

    @property
    def _writing_manager(self) -> ocp.CheckpointManager:
        """Orbax's manager, which only a reader lacks: it neither saves nor sets aside."""
        return cast(ocp.CheckpointManager, self._manager)

    @property
    def run(self) -> Path:
        """The folder of the run whose checkpoints these are."""
        return self._folder.parent

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, in rising order."""
        return whole_steps(self._folder)

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step with the lowest finite score; None if no checkpoint has a score."""
        self._find_best()
        return self._best.step

    def read(self, act: Callable[[int], T], step: int | None = None) -> T:
        """Reads a checkpoint by `act`, by default the newest one, even if a run still saves there.

        Raises:
          CorruptCheckpoint: the checkpoint is damaged.
          InputError: there is no such checkpoint, it was removed meanwhile, or `act` raised it.
        """
        return read_step(self._folder, act, step, processes.broadcast_from_writer)

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None
    ) -> None:
        """Saves after `step` optimiser steps; returns once the state is copied off the devices.

        Args:
          step: number of steps that are done.
          state: the state after these steps.
          meta: the description of the checkpoint.
          score: decides which checkpoint is the best; lower is better. A checkpoint whose score is
            None or not finite is never the best.

        Raises:
          InputError: this checkpoint, or the one before it, could not be written. Checkpoints that
            were complete stay complete.
        """
        arrays = contents(state)
        meta = meta | {"arrays": described(arrays)} | ({} if score is None else {"score": score})
        # Before the save, in which Orbax asks what to keep.
        self._best.consider(step, score)
        with self._saving():
            if processes.is_writer():
                # Recorded before Orbax makes it, so that a kill leaves no folder of nobody's.
                self._claim(step)
            saved = self._writing_manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    # The sum covers all but itself.
                    meta=ocp.args.JsonSave(meta | {"checksum": meta_sum(meta)}),
                ),
            )
        if not saved:
            # Orbax returns False, and raises nothing, where it decides not to save.
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}")

    def wait(self) -> None:
        """Waits until the checkpoint that is being saved is on disk.

        Raises:
          InputError: the checkpoint could not be written.
        """
        with self._saving():
            self._writing_manager.wait_until_finished()

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the description of a checkpoint: its experiment, data and log position.

        Raises:
          CorruptCheckpoint: the description is missing, cut short or changed.
          InputError: the description cannot be read at the moment.
        """
        meta = self._together(step, self._stored(step).meta)
        del meta["arrays"]
        return meta

    def restore(
        self, step: int, like: TrainState, sharding: jax.sharding.Sharding | TrainState
    ) -> TrainState:
        """Restores the state that was saved at `step`.

        Args:
          step: step of a checkpoint in this folder.
          like: a state of the run that continues, or its shapes. Its static parts are kept.
          sharding: the sharding of all arrays, or a state of shapes, each with its own sharding. If
            a shape has more rows than the checkpoint, the additional rows become zeros. The
            checkpoint may have been saved on other devices. Each process reads only the parts for
            its own devices.

        Raises:
          InputError: names, shapes or dtypes differ, so the checkpoint belongs to another model
            (Orbax alone would cast a dtype silently); or the checkpoint cannot be read at the
            moment.
          CorruptCheckpoint: files are missing or cut short, or an array is not as it was saved.
        """
        wanted = contents(like)
        arrays, saved = self._together(step, lambda: self._stored(step).arrays(wanted, sharding))
        # Outside of `_together`: it contains a collective, which every process must reach.
        sums = checksums(saved, like=wanted)

        def check() -> None:
            with self._stored(step).reading():
                check_sums(sums, arrays)

        self._together(step, check)
        return with_contents(like, saved)

    def restore_newest(
        self, like: TrainState, sharding: jax.sharding.Sharding | TrainState
    ) -> tuple[int, TrainState] | None:
        """Restores the newest undamaged checkpoint as (step, state); None if there never was one.

        A newer checkpoint that any process finds damaged is renamed to `broken-STEP` and logged;
        the run repeats those steps.

        Raises:
          InputError: the newest undamaged checkpoint belongs to another model, or cannot be read at
            the moment; or all checkpoints are damaged.
        """
        # One list for all: every process must try the same steps in the same order.
        steps = processes.broadcast_from_writer("steps", self.steps())
        while steps:
            step = steps.pop()
            try:
                return step, self.restore(step, like, sharding)
            except CorruptCheckpoint as error:
                self._set_aside(self._folder / str(step), str(error), last=not steps)
                # The others may read the list only once the folder has its new name.
                processes.wait_for_all(f"set aside {step}")
                # Orbax keeps its own list of steps, in which the renamed one still stands.
                self._writing_manager.reload()
                self._find_best()
        aside = [path.name for path in self._trees() if path.name.startswith("broken-")]
        aside = processes.broadcast_from_writer("aside", aside)
        if aside:
            raise InputError(
                f"expected a sound checkpoint in {self._folder}, found only damaged ones: "
                f"{', '.join(aside)}. Put a sound copy of one there, named by its step, or pass "
                "--fresh to train anew."
            )
        return None

    def _together(self, step: int, act: Callable[[], T]) -> T:
        """Returns what `act` returns if it succeeds on all processes; otherwise all raise.

        Raises:
          CorruptCheckpoint: some found damage, and no one another fault.
          InputError: one found another fault.
        """
        result, failed = None, None
        try:
            result = act()
        except InputError as error:
            failed = error
        found = failed and [isinstance(failed, CorruptCheckpoint), str(failed)]
        # Reached after a success as well, since the processes wait here for each other.
        told = list(filter(None, processes.allgather(f"read {step}", found)))
        # Any other fault comes first: a failing disk on one process must set nothing aside.
        others = [message for is_corrupt, message in told if not is_corrupt]
        if others:
            raise InputError(others[0]) from failed
        if told:
            raise CorruptCheckpoint(told[0][1]) from failed
        return cast(T, result)  # `act` succeeded: a T may itself be None.

    def _stored(self, step: int) -> Stored:
        return Stored(
            self._folder / str(step),
            " Take another step of the run." if self._manager is None else "",
        )

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns errors of Orbax and TensorStore, as of a full disk, into one with advice."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            latest = self.latest() or 0
            # Orbax measures its patience by the wall clock, which may be set forward meanwhile.
            late = isinstance(error, TimeoutError)
            needed = "time, by a clock that nobody sets," if late else "room and permission"
            raise InputError(
                f"expected {needed} to save in {self._folder}, found: {reason(error)}. The "
                f"newest whole checkpoint is of step {latest}; mend that, and the same command "
                "goes on from there."
            ) from error

    def _trees(self) -> list[Path]:
        """Returns the folders of checkpoints, finished or not, that a run recorded here."""
        found = owned.read(self._folder)
        paths = (self._folder / name for name in sorted(found.trees if found else ()))
        return [path for path in paths if path.is_dir() and not path.is_symlink()]

    def _unfinished(self) -> list[Path]:
        return [path for path in self._trees() if path.name.endswith(UNFINISHED)]

    def _claim(self, step: int) -> None:
        """Records the two names that Orbax gives the folder of a step, the first while it fills it.

        Orbax removes a folder that has the first one; so what a killed save left goes before.
        """
        unfinished = self._folder / f"{step}{UNFINISHED}"
        owned.remove_tree(unfinished)
        if unfinished.exists():
            raise InputError(
                f"{unfinished}: expected no such folder, or only what a killed save left in it, "
                "found other files. Move them elsewhere, and the same command goes on."
            )
        owned.claim_tree(unfinished)
        owned.claim_tree(self._folder / str(step))

    def _find_best(self) -> None:
        self._best.step = None
        for step in self.steps():
            try:
                score = self._stored(step).meta().get("score")
            except UnreadableCheckpoint:  # Its score unknown, the best would be deleted.
                raise
            except InputError:  # It is reported when it is used.
                continue
            self._best.consider(step, score)

    def _remove_unfinished(self) -> None:
        """Removes the remains of a failed save, which would keep the disk full."""
        for _ in range(20):
            for path in self._unfinished():
                owned.remove_tree(path)
            if not any(map(_has_files_of_orbax, self._unfinished())):
                break
            time.sleep(0.1)  # Other arrays of that save are still being written.

    def _take_in_copies(self) -> None:
        """Records checkpoints that the user put here; other numbered folders are refused.

        Orbax takes every numbered folder for a step, and would remove it in time.
        """
        recorded = {path.name for path in self._trees()}
        for path in sorted(self._folder.glob("[0-9]*")):
            if path.name.isdigit() and path.name not in recorded:
                # What is taken in here may be removed later, so it must be a checkpoint of ours.
                if path.is_symlink() or owned.foreign_in_tree(path) or not _is_copy(path):
                    raise InputError(
                        f"{path}: expected a checkpoint of this run, found something that no run "
                        "recorded. Move it elsewhere, or take another folder."
                    )
                owned.take_in_tree(path)

    def _set_broken_steps_aside(self) -> None:
        """Renames step folders without content, which would pass for the newest checkpoint."""
        for path in self._unfinished():
            log.warning(f"{path}: a save that was cut short is removed.")
            owned.remove_tree(path)
        steps = [Stored(path) for path in self._trees() if path.name.isdigit()]
        # Only for the message: whether one is left to go on from.
        last = not any(stored.is_whole for stored in steps)
        for path in sorted(stored.folder for stored in steps if not stored.is_whole):
            why = f"{path}: expected a whole checkpoint, found parts of one."
            self._set_aside(path, why, last=last)

    def _set_aside(self, path: Path, why: str, *, last: bool) -> None:
        aside = f"broken-{path.name}"
        if processes.is_writer():
            aside = owned.rename_tree(path, aside).name
        next_one = "" if last else "; the one before it is used"
        log.warning(f"{why} It is kept as {aside}{next_one}.")


def check_path(folder: Path) -> None:
    """Raises an error for a path from which Orbax could not read its own checkpoints.

    Orbax finds the parts of a checkpoint by a file pattern that contains the path unescaped. In a
    folder called "[x]" it finds no parts, and saves an incomplete checkpoint without an error.

    Raises:
      InputError: the path contains a special character of file patterns.
    """
    # The absolute path, since Orbax gets that one.
    found = "".join(sorted(set("[]*?") & set(str(folder.absolute()))))
    if found:
        raise InputError(
            f"expected a run folder without the characters [ ] * ? in its path, found {found} in "
            f"{folder}: Orbax saves checkpoints there that cannot be read. Take another --workdir."
        )


def _has_files_of_orbax(path: Path) -> bool:
    return any(is_of_orbax(file.relative_to(path)) for file in path.rglob("*"))


def _is_copy(path: Path) -> bool:
    """Returns whether a folder is a checkpoint of ours: its description has a valid checksum."""
    try:
        Stored(path).meta()
    except InputError:
        return False
    return is_whole(path)


class _Best:
    """Preserves the step of the lowest score; Orbax's own rule deletes it where a score is NaN."""

    step: int | None = None
    score = math.inf

    def consider(self, step: int, score: float | None) -> None:
        if score is not None and (self.step is None or score < self.score) and math.isfinite(score):
            self.step, self.score = step, score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [found.step == self.step for found in checkpoints]


class _Foreign:
    """Preserves a step into whose folder somebody put a file: Orbax would remove it too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [bool(owned.foreign_in_tree(self._folder / str(x.step))) for x in checkpoints]


def _preserving(steps: Sequence[int], best: _Best, folder: Path) -> policies.PreservationPolicy:
    kept = [policies.LatestN(KEEP), policies.CustomSteps(steps), best, _Foreign(folder)]
    return policies.AnyPreservationPolicy(kept)
