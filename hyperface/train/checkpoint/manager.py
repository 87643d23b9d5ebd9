"""Saves and restores the checkpoints of a run: all state on which the next step depends."""

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

# Two, because the newest may turn out to be damaged, and the run then continues from the other.
KEEP = 2


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; use as a context manager.

    Each checkpoint contains "state" (parameters, optimiser, random key, step, moving averages) and
    "meta" (the experiment, its data, and a checksum of every array, because Orbax restores flipped
    bits without an error). Saving is asynchronous and atomic: a killed save leaves the previous
    checkpoint as the newest. If a checkpoint cannot be used, a warning is logged.

    Args:
      folder: the folder of the checkpoints, which contains nothing else. If it is absent, it is
        created, except with `read_only`.
      read_only: whether nothing in the folder is changed, so that a running training is not
        disturbed. `save` and `wait` must not be called then.
      keep: steps whose checkpoints are never removed. Of the other checkpoints, only the newest two
        and the one with the lowest score (the argument `score` of `save`) are kept.
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
        # A reader does not read the descriptions of all steps, as is done below. It may want only
        # one step, and the files of another may be unreadable.
        if read_only:
            return
        check_path(self._folder)
        if processes.is_writer():
            # Only one process may rename and remove folders.
            with owned.writing(folder):
                owned.adopt(self._folder, owned.CHECKPOINTS)
                self._take_in_copies()
                self._set_broken_steps_aside()
        # Orbax lists the steps when it opens the folder, so the folder must be cleaned up before.
        processes.wait_for_all("checkpoints")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_preserving(keep, self._best, self._folder),
                # Orbax would also remove unfinished folders that this run has not recorded.
                cleanup_tmp_directories=False,
                # `owned.adopt` has created the folder, and recorded that it is ours.
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
            # Orbax's end waits for all processes, and the others do not come here now.
            return
        with self._saving():
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()
                # With several processes another one may still write; the next start removes them.
                if not several:
                    self._remove_unfinished()

    @property
    def _writing_manager(self) -> ocp.CheckpointManager:
        """Orbax's manager. It is missing only with `read_only`, which does not call this."""
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
        """Reads a checkpoint with `act`, even if a running training removes checkpoints meanwhile.

        Returns the result of `act`. If the newest checkpoint disappears while it is read, the next
        newer one is read instead.

        Args:
          act: a function that gets a step and reads its checkpoint. It raises InputError if it
            cannot.
          step: step of the checkpoint; None takes the newest.

        Raises:
          CorruptCheckpoint: the checkpoint is damaged.
          InputError: there is no such checkpoint, it was removed meanwhile, or `act` raised it.
        """
        return read_step(self._folder, act, step, processes.broadcast_from_writer)

    def save(
        self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts to save a checkpoint, and returns once the state is copied from the devices.

        Args:
          step: number of steps that are done.
          state: the state after these steps.
          meta: the description of the checkpoint, JSON values by name: the experiment, its data,
            and the metrics since the last line of the log. A checksum of each array is added.
          score: value by which `best` compares checkpoints; lower is better. A checkpoint whose
            score is None or not finite is never the best.

        Raises:
          InputError: this checkpoint, or the one before it, could not be written. Checkpoints that
            were complete stay complete.
        """
        arrays = contents(state)
        meta = meta | {"arrays": described(arrays)} | ({} if score is None else {"score": score})
        # Before the save, in which Orbax asks `_Best` which steps it must keep.
        self._best.consider(step, score)
        with self._saving():
            if processes.is_writer():
                # Recorded before Orbax creates the folder, so that every folder that a killed
                # process leaves is known to be ours.
                self._claim(step)
            saved = self._writing_manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    # The checksum covers all fields except itself.
                    meta=ocp.args.JsonSave(meta | {"checksum": meta_sum(meta)}),
                ),
            )
        if not saved:
            # Orbax returns False without an error if it decides not to save.
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}")

    def wait(self) -> None:
        """Waits until the checkpoint that is being saved is on disk.

        Raises:
          InputError: the checkpoint could not be written.
        """
        with self._saving():
            self._writing_manager.wait_until_finished()

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the description of a checkpoint, the argument `meta` of `save`.

        It contains JSON values by name: the experiment, its data, and the metrics since the last
        line of the log. "score" is the score of the checkpoint, if it has one.

        Args:
          step: step of a checkpoint in this folder.

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
          like: a state of the run that continues, or the same state with a `jax.ShapeDtypeStruct`
            in place of each array. Parts that are no arrays, such as the network and the
            optimiser, are taken from it.
          sharding: where the arrays are put: one sharding for all arrays, or a state with a
            `jax.ShapeDtypeStruct` and its sharding in place of each array. If such a shape has more
            rows than the saved array, the additional rows become zeros. The checkpoint may have
            been saved on other devices. Each process reads only the parts for its own devices.

        Raises:
          InputError: names, shapes or dtypes differ, so the checkpoint belongs to another model
            (Orbax alone would cast a dtype silently); or the checkpoint cannot be read at the
            moment.
          CorruptCheckpoint: files are missing or cut short, or an array is not as it was saved.
        """
        wanted = contents(like)
        arrays, saved = self._together(step, lambda: self._stored(step).arrays(wanted, sharding))
        # Outside of `_together`: `checksums` contains a collective, and a process whose reading
        # failed before it would leave the others waiting.
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

        A newer checkpoint that any process finds damaged is renamed to `broken-STEP` and logged.
        The run then repeats its steps.

        Args:
          like: a state of the run that continues, or the same state with a `jax.ShapeDtypeStruct`
            in place of each array. Parts that are no arrays are taken from it.
          sharding: one sharding for all arrays, or a state with a `jax.ShapeDtypeStruct` and its
            sharding in place of each array.

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
                # No process may list the steps before the folder has its new name.
                processes.wait_for_all(f"set aside {step}")
                # Orbax's own list of steps still contains the renamed one.
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
        """Calls `act` on all processes, and raises the same error on all if it fails on any.

        Args:
          step: step of the checkpoint that `act` reads.
          act: a function without collectives; its result is returned.

        Raises:
          CorruptCheckpoint: a process found damage, and no process found another fault.
          InputError: a process found another fault.
        """
        result, failed = None, None
        try:
            result = act()
        except InputError as error:
            failed = error
        found = failed and [isinstance(failed, CorruptCheckpoint), str(failed)]
        # Called after a success too, because each process waits here for all others.
        told = list(filter(None, processes.allgather(f"read {step}", found)))
        # Other faults take precedence over damage: if the disk of a process fails, no checkpoint
        # may be renamed.
        others = [message for is_corrupt, message in told if not is_corrupt]
        if others:
            raise InputError(others[0]) from failed
        if told:
            raise CorruptCheckpoint(told[0][1]) from failed
        return cast(T, result)  # `act` has succeeded, so None is a valid result here.

    def _stored(self, step: int) -> Stored:
        return Stored(
            self._folder / str(step),
            " Take another step of the run." if self._manager is None else "",
        )

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Turns errors of a save, such as that of a full disk, into an InputError with advice.

        It is used as a context manager.
        """
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            latest = self.latest() or 0
            # Orbax measures its timeout by the wall clock, which somebody may set forward
            # meanwhile.
            late = isinstance(error, TimeoutError)
            needed = "time, by a clock that nobody sets," if late else "room and permission"
            raise InputError(
                f"expected {needed} to save in {self._folder}, found: {reason(error)}. The "
                f"newest whole checkpoint is of step {latest}; mend that, and the same command "
                "goes on from there."
            ) from error

    def _trees(self) -> list[Path]:
        """Returns the folders of finished and unfinished checkpoints that a run recorded here."""
        found = owned.read(self._folder)
        paths = (self._folder / name for name in sorted(found.trees if found else ()))
        return [path for path in paths if path.is_dir() and not path.is_symlink()]

    def _unfinished(self) -> list[Path]:
        return [path for path in self._trees() if path.name.endswith(UNFINISHED)]

    def _claim(self, step: int) -> None:
        """Records the names of a step's folder as ours, and removes the rest of a killed save.

        Orbax fills a folder under a temporary name, and then renames it to the step. It would
        remove an existing folder of the temporary name, whoever owns its files.

        Raises:
          InputError: the folder of the temporary name contains files that are not ours.
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
        """Finds the step with the lowest score among the checkpoints in the folder."""
        self._best.step = None
        for step in self.steps():
            try:
                score = self._stored(step).meta().get("score")
            except UnreadableCheckpoint:
                # It may be the best one. To continue without its score could delete it.
                raise
            except InputError:
                # A damaged checkpoint is reported when it is used.
                continue
            self._best.consider(step, score)

    def _remove_unfinished(self) -> None:
        """Removes the remains of a failed save, which would keep the disk full."""
        for _ in range(20):
            for path in self._unfinished():
                owned.remove_tree(path)
            if not any(map(_has_files_of_orbax, self._unfinished())):
                break
            # Orbax's threads may still write other arrays of the failed save.
            time.sleep(0.1)

    def _take_in_copies(self) -> None:
        """Records checkpoints that the user copied into the folder as ours.

        Orbax takes every folder with a number as its name for a checkpoint, and would remove it at
        some time.

        Raises:
          InputError: a folder with such a name is not an undamaged checkpoint of a run.
        """
        recorded = {path.name for path in self._trees()}
        for path in sorted(self._folder.glob("[0-9]*")):
            if path.name.isdigit() and path.name not in recorded:
                # A recorded folder may be removed later, so it must be a checkpoint of a run.
                if path.is_symlink() or owned.foreign_in_tree(path) or not _is_copy(path):
                    raise InputError(
                        f"{path}: expected a checkpoint of this run, found something that no run "
                        "recorded. Move it elsewhere, or take another folder."
                    )
                owned.take_in_tree(path)

    def _set_broken_steps_aside(self) -> None:
        """Removes unfinished folders, and renames incomplete ones to `broken-STEP`.

        Orbax would take an incomplete folder for the newest checkpoint.
        """
        for path in self._unfinished():
            log.warning(f"{path}: a save that was cut short is removed.")
            owned.remove_tree(path)
        steps = [Stored(path) for path in self._trees() if path.name.isdigit()]
        # Only for the message: whether no complete checkpoint is left.
        last = not any(stored.is_whole for stored in steps)
        for path in sorted(stored.folder for stored in steps if not stored.is_whole):
            why = f"{path}: expected a whole checkpoint, found parts of one."
            self._set_aside(path, why, last=last)

    def _set_aside(self, path: Path, why: str, *, last: bool) -> None:
        """Renames the folder of a checkpoint to `broken-STEP`, and logs it.

        Args:
          path: the folder.
          why: the first sentence of the warning.
          last: whether no older checkpoint is left.
        """
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
    """Returns whether a folder contains, at any depth, a file that Orbax writes."""
    return any(is_of_orbax(file.relative_to(path)) for file in path.rglob("*"))


def _is_copy(path: Path) -> bool:
    """Returns whether a folder is a checkpoint of a run: its description has a valid checksum."""
    try:
        Stored(path).meta()
    except InputError:
        return False
    return is_whole(path)


class _Best:
    """Orbax's rule that preserves the checkpoint with the lowest score.

    Orbax has such a rule itself, but it deletes the best checkpoint if another score is NaN.
    """

    step: int | None = None
    """The step with the lowest score so far; None if there is none."""
    score = math.inf
    """The score of that step."""

    def consider(self, step: int, score: float | None) -> None:
        """Takes a step for the best one if its score is finite and lower than all before."""
        if score is not None and (self.step is None or score < self.score) and math.isfinite(score):
            self.step, self.score = step, score

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether it is the best one; Orbax calls it."""
        return [found.step == self.step for found in checkpoints]


class _Foreign:
    """Orbax's rule that preserves each checkpoint whose folder contains files that are not ours.

    Orbax would remove these files with the checkpoint.

    Args:
      folder: the folder of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether it has such files; Orbax calls it."""
        return [bool(owned.foreign_in_tree(self._folder / str(x.step))) for x in checkpoints]


def _preserving(steps: Sequence[int], best: _Best, folder: Path) -> policies.PreservationPolicy:
    """Returns the rule that decides which checkpoints Orbax keeps.

    It keeps the newest KEEP checkpoints, those of `steps`, and those that the rules `_Best` and
    `_Foreign` preserve.
    """
    kept = [policies.LatestN(KEEP), policies.CustomSteps(steps), best, _Foreign(folder)]
    return policies.AnyPreservationPolicy(kept)
