"""Creates and locks the folder of a run, and checks that it belongs to this run."""

import contextlib
import datetime
import hashlib
import json
import logging
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyperface import owned
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.files import digest

log = logging.getLogger("hyperface")

DIVERGED = "diverged.json"
"""File with the step at which a run diverged and the reason; removed when the run continues."""
WRITTEN = (
    "config.json",
    "environment.json",
    "history.jsonl",
    "metrics.jsonl",
    "results.json",
    "report.html",
)
"""Files that every run writes; the last two are written after its last step."""
RUN_META = ("experiment", "data", "init_from")
"""Fields of `config.json` and of a checkpoint's description that identify a run."""
MAY_CHANGE = {"experiment.shard_agents", "experiment.on_metrics"}
"""Fields that may change when a run continues, because they do not change its numbers."""
HISTORY = "history.jsonl"
"""File with one line for each time that the run was started: from which step to which."""
SHOWN = 3
"""Number of differing fields that a message names."""
# Other versions of these packages may change the numbers of a run.
RECORDED_VERSIONS = ("hyperface", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@contextlib.contextmanager
def locked_run_folder(
    workdir: Path,
    meta: dict[str, Any],
    *,
    file: Path | None = None,
    fresh: bool = False,
) -> Iterator[None]:
    """Creates and locks the run's folder, as a context manager.

    If the folder exists, it is checked to belong to this run. A warning is logged if the run was
    started with other versions of packages or on other devices.

    Args:
      workdir: the run's folder.
      meta: the record that identifies the run: "experiment", "data" and, for a fine-tuned run,
        "init_from" (`loop.run_meta`).
      file: the user's Python file that defines the experiment, of which the folder keeps a copy;
        None for one of our experiments.
      fresh: whether the files of an earlier run in the folder are deleted first. Files that this
        program did not write stay.

    Raises:
      InputError: the folder belongs to another run, was not created by this program, is in use, or
        cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with _usable(workdir):
            # The lock outlives `_usable`, whose message does not fit errors of the training.
            stack.enter_context(owned.locked(workdir, "being trained in", owned.RUN))
            # Checked now, because a user's own file "report.html", for example, would otherwise
            # stop the run only after its last step.
            copies = (file.name,) if file else ()
            owned.check_free(*(workdir / name for name in (*WRITTEN, *copies)))
            if fresh:
                # The marker stays, because it holds the lock.
                owned.clear(workdir, keep_marker=True)
            _claim(workdir, meta, file)
        yield


@contextlib.contextmanager
def _usable(workdir: Path) -> Iterator[None]:
    """Turns OSError and JSONDecodeError into an InputError that names the run's folder."""
    try:
        yield
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"expected a writable run folder {workdir}, found: {error}. Mend that, or take "
            "another --workdir."
        ) from error


def check_same_run(workdir: Path, meta: dict[str, Any]) -> None:
    """Raises an error if a folder is not a run of this program, or belongs to another run.

    Args:
      workdir: the run's folder, which may be absent.
      meta: the record of the run that wants to continue: "experiment", "data", "init_from".

    Raises:
      InputError: the folder contains something else, or a run with another record. The message
        names what it contains, or the fields that differ.
    """
    with _usable(workdir):
        owned.check(workdir, owned.RUN)
        config = workdir / "config.json"
        if config.exists():
            check_same_experiment(str(workdir), json.loads(config.read_text()), meta)


def check_same_experiment(where: str, found: dict[str, Any], meta: dict[str, Any]) -> None:
    """Raises an error if a folder or checkpoint belongs to another experiment or other data.

    Args:
      where: the folder or checkpoint, for the message.
      found: the record in that folder or checkpoint. Only "experiment", "data" and "init_from" are
        compared. The experiment's number of steps may be smaller in `found` than in `meta`, because
        a run can be continued with more steps. With a cosine schedule both must be equal.
      meta: the record of the run that wants to continue: "experiment", "data", "init_from".

    Raises:
      InputError: the folder differs. The message names the fields that differ.
    """
    differing = differences(_grown(found, meta), meta)
    if differing:
        more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
        raise InputError(
            f"{where} holds another run: {'; '.join(differing[:SHOWN])}{more}. Take another "
            "--workdir, or pass --fresh to delete that run."
        )


def _grown(found: dict[str, Any], meta: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a run that identify it, with the number of steps of `meta` if larger.

    Args:
      found: the fields of a folder or checkpoint.
      meta: the fields of the run that wants to continue.
    """
    found = {name: found[name] for name in RUN_META if name in found}
    steps, wanted = (run.get("experiment", {}).get("steps", 0) for run in (found, meta))
    # With a cosine schedule all rates depend on the number of steps, so that the steps so far are
    # not those of a longer run.
    cosine = found.get("experiment", {}).get("optimizer", {}).get("schedule") == "cosine"
    if steps < wanted and not cosine:
        found["experiment"] = found["experiment"] | {"steps": wanted}
    return found


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Returns one text per field in which two runs differ, with both values, for a message.

    Fields that do not change the numbers of a run (`shard_agents` and `on_metrics`) are left out.

    Args:
      found: the record of the earlier run, nested dictionaries.
      wanted: the record of the run that wants to continue.
    """
    found, wanted = _flat(found), _flat(wanted)
    return [
        f"{name} was {found.get(name)}, is now {wanted.get(name)}"
        for name in sorted((found.keys() | wanted.keys()) - MAY_CHANGE)
        if found.get(name) != wanted.get(name)
    ]


def record_start(workdir: Path, first_step: int, steps: int) -> None:
    """Adds a line to `history.jsonl` when a run starts or continues.

    The line contains the time, `first_step` and `steps`. It also has the digest of the user's
    Python file, if the experiment is defined in one.

    Args:
      workdir: the run's folder.
      first_step: number of steps that are done.
      steps: number of steps after which the run ends.
    """
    path = workdir / HISTORY
    earlier = path.read_text() if path.exists() else ""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "from_step": first_step, "to_step": steps}
    config = json.loads((workdir / "config.json").read_text())
    # The user's file may change between two starts, so each line has its digest.
    if "file" in config:
        line["file"] = digest(workdir / config["file"]["name"])
    owned.write_text(path, earlier + json.dumps(line) + "\n")


def _claim(workdir: Path, meta: dict[str, Any], file: Path | None) -> None:
    """Writes config.json, environment.json and the copy of the user's file into the folder.

    The arguments are those of `locked_run_folder`.
    """
    # Checked first, so that nothing is written into the folder of another run.
    check_same_run(workdir, meta)
    # The file reports that the run has diverged, and the run continues now.
    owned.remove(workdir / DIVERGED)
    config = meta if file is None else meta | {"file": _file_record(workdir, file)}
    text = json.dumps(config, indent=2) + "\n"
    path = workdir / "config.json"
    if not path.exists() or path.read_text() != text:  # It grew, or its file is another one.
        owned.write_text(path, text)
    path, now = workdir / "environment.json", _environment()
    if path.exists():
        changes = _changes(json.loads(path.read_text()), now)
        if changes:
            log.warning(
                f"{workdir} was begun with {changes}: its numbers may differ in their last digits."
            )
    owned.write_text(path, json.dumps(now, indent=2) + "\n")


def _file_record(workdir: Path, file: Path) -> dict[str, str]:
    """Copies the user's file that defines the experiment into the run's folder.

    Evaluation uses the copy later, even if the user changes or removes the file.

    Returns:
      The entry "file" of config.json: its "name", its full "path" and the "sha256" of its content.
    """
    copy, content = workdir / file.name, file.read_bytes()
    if copy.exists() and copy.read_bytes() != content:
        log.warning(f"{file} has changed since {workdir} was begun: its numbers may differ.")
    owned.write_bytes(copy, content)
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": file.name, "path": str(file.resolve()), "sha256": sha256}


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns what differs between two environments, in words."""
    before, now = _facts(before), _facts(now)
    return "; ".join(
        f"{name} {before.get(name, 'none')}, now {now.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def _facts(environment: dict[str, Any]) -> dict[str, Any]:
    """Returns the versions by package, and the devices as a text such as "8 x cpu"."""
    devices = ", ".join(mesh.counted(environment["devices"]))
    return environment["versions"] | {"devices": devices, "python": environment["python"]}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested dictionaries as one, whose keys are paths such as "experiment.steps"."""
    flat = {}
    for name, value in tree.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        flat |= inner or {f"{prefix}{name}": value}
    return flat


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": mesh.describe_devices(),
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
