"""Scores tasks: embeds their images, scores the features, and writes the report."""

import contextlib
import hashlib
import logging
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hyperface import owned
from hyperface.arrays import open_npy
from hyperface.data.manifest import Manifest
from hyperface.data.resolution import degrade
from hyperface.devices import mesh, processes
from hyperface.evaluate.calibration_file import NAME as CALIBRATION
from hyperface.evaluate.calibration_file import store
from hyperface.files import digest
from hyperface.protocols.features import (
    NamedFeatures,
    check,
    read_features,
    read_names,
    read_origin,
)
from hyperface.protocols.protocol import Distractors
from hyperface.protocols.result import Figure, Result, over_snapshots
from hyperface.report.cleaning import NamedImages
from hyperface.report.evaluation import protocol_tables, write_evaluation
from hyperface.report.hard_pairs import Pixels
from hyperface.report.tables import as_text
from hyperface.runs import next_steps, program
from hyperface.runs.embedding import embed_into, open_network
from hyperface.runs.evaluate_plan import FULL, Images, Task
from hyperface.train.logs import run_digest

log = logging.getLogger("hyperface")


RESULTS = ("evaluation.json", "evaluation.html")
ADVICE = "The figures are above; choose another folder by --out to have the report too."
VERSIONS = ("hyperface", "jax", "flax", "numpy", "scipy", "scikit-learn", "pillow")
"""Names of the packages whose versions are recorded with the scores."""


def run(
    tasks: Sequence[Task], out: Path | None = None, request: Mapping[str, str] | None = None
) -> dict[str, Result]:
    """Computes the scores of every task, logs them as tables, and writes the report.

    If several checkpoints are scored, their scores are averaged.

    Args:
      tasks: the tasks that `evaluate_plan.plan` returned.
      out: folder of the report; None writes nothing.
      request: name of an option -> its value as text. It is written into evaluation.json; None
        writes no options.

    Returns:
      Task name -> `Result`, whose field `figures` contains the scores by name. The task's name is
      that of the protocol, such as "lfw". For images whose area is reduced by a factor, it ends
      with the factor: "lfw-area4". If several processes run, only the first one returns results;
      the others return {}.

    Raises:
      InputError: there is no such network, the images have another size than the network's, or a
        feature is zero or not finite.
    """
    writes = processes.is_writer()
    if writes and out is not None:
        owned.check_free(*(out / name for name in (*RESULTS, CALIBRATION)))
    with contextlib.ExitStack() as stack:
        # Each process stores the features of all images in a folder of its own.
        folder = _scratch(stack, out if writes else None)
        stack.enter_context(owned.writing(folder))
        features = FeatureCache(folder)
        shots: dict[str, list[Result]] = {}
        for task in tasks:
            named = features.of(task.images)
            distractors = features.distractors(task.distractors) if task.distractors else None
            if writes:  # Other processes only help to embed.
                found = _score(task, named, distractors)
                shots.setdefault(task.name, []).append(found)
        results = {n: over_snapshots(of) if len(of) > 1 else of[0] for n, of in shots.items()}
        titles = {task.name: task.title for task in tasks}
        if not writes:
            return {}
        # The tables are logged before files are written, so a full disk costs no result.
        areas = {task.name: task.images.area for task in tasks}
        for table in protocol_tables(titles, results, areas):
            log.info(f"\n{as_text(table)}")
        if out is not None:
            with owned.writing(out, ADVICE):
                _write_calibration(out, tasks, results, features)
                write_evaluation(
                    out,
                    source=tasks[0].images.source,
                    scored=results,
                    titles=titles,
                    pixels={t.name: p for t in tasks if (p := features.pixels(t.images))},
                    sweeps=_sweeps(tasks, results),
                    areas=areas,
                    command=program.command_line(),
                    settings=_record(tasks, features, request or {}),
                )
    if out is not None:
        log.info(f"\nReport: {out / 'evaluation.html'}")
        if (out / CALIBRATION).exists():
            log.info(next_steps.after_calibration(tasks[0].images, out / CALIBRATION))
    return results


def _scratch(stack: contextlib.ExitStack, out: Path | None) -> Path:
    """Returns a temporary folder for features, which is removed when `stack` is closed.

    It is created in the folder of the report. If that cannot be written, it is created in the
    system's folder for temporary files: the scores are then logged although no report is written.
    """
    if out is not None:
        try:
            return stack.enter_context(owned.scratch(out))
        except OSError as error:
            # Only errors of space and permissions: another folder does not mend any other one.
            if error.errno not in program.OF_THE_DISK:
                raise
    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


def _write_calibration(
    out: Path, tasks: Sequence[Task], results: Mapping[str, Result], features: "FeatureCache"
) -> None:
    """Writes the calibration that a task has fitted, and removes an earlier one.

    Args:
      out: folder of the report.
      tasks: the tasks.
      results: task name -> result.
      features: gives the digest of each task's network.
    """
    # A calibration of an earlier evaluation would pass for that of this one.
    owned.remove(out / CALIBRATION)
    for task in tasks:
        fitted = results[task.name].calibration
        # Thresholds that were fitted on reduced images do not hold for photos.
        if fitted is not None and task.images.area == FULL:
            model, mirror = features.networks[task.images]
            stored = store(fitted, model=model, mirror=mirror, protocol=task.title)
            owned.write_text(out / CALIBRATION, stored.to_text())


def _score(task: Task, named: NamedFeatures, distractors: Distractors | None) -> Result:
    """Scores the features of a task by its protocol, and names the result after the task."""
    named = named._replace(steps=(*named.steps, *_lost_pairs(task.files)))
    with program.progress(f"scoring {task.name}", "parts") as advance:
        settings = replace(task.settings, distractors=distractors, progress=advance)
        found = task.protocol.score(named, task.files, settings)
    # A protocol names its main curve after itself. Curves of several resolutions need other names.
    curves = {task.name if n == task.protocol.name else n: c for n, c in found.curves.items()}
    return replace(found, protocol=task.name, curves=curves)


def _lost_pairs(files: Sequence[Path]) -> tuple[str, ...]:
    """Returns a sentence about pairs of a data set's list that lack an image; () if all are there.

    A pair is left out of the list if `hyperface prepare` could not read one of its images.
    """
    # A protocol's own list is in another folder, which has no manifest.
    lists = [path for path in files if path.with_name("manifest.json").is_file()]
    lost = [pair for path in lists for pair in Manifest.read(path.parent).lost_pairs]
    if not lost:
        return ()
    shown = "; ".join(lost[:3]) + ("; ..." if len(lost) > 3 else "")
    return (
        f"{len(lost):,} pairs left out of the data set's list, each without one of its images: "
        f"{shown}",
    )


def _sweeps(tasks: Sequence[Task], results: Mapping[str, Result]) -> dict[str, dict[float, Figure]]:
    """Returns protocol and score -> area factor -> value, for the protocols of several factors.

    The score is the first one of the protocol's table.
    """
    sweeps: dict[str, dict[float, Figure]] = {}
    for task in tasks:
        name, figure = next(iter(results[task.name].figures.items()))
        sweeps.setdefault(f"{task.protocol.name}: {name}", {})[task.images.area] = figure
    return {label: values for label, values in sweeps.items() if len(values) > 1}


def _record(
    tasks: Sequence[Task], features: "FeatureCache", request: Mapping[str, str]
) -> dict[str, Any]:
    """Returns a record of the inputs of an evaluation, for `evaluation.json`.

    Args:
      tasks: the tasks, whose protocol files are recorded by their digests.
      features: the scored features, with their digests and those of their networks.
      request: option -> value as text.

    Returns:
      A dictionary with "options", "data" (label of images -> digest), the digest of the "run", the
      digests of the "networks" ("" for an unknown one), "files" (name -> digest) and the keys of
      `environment`.
    """
    # Source and folder are those of the first task, because all tasks come from the same options.
    files = (path for task in tasks for path in (*task.files, *task.settings.files()))
    return {
        "options": dict(request),
        "data": dict(features.digests),
        "run": run_digest(tasks[0].images.source) or digest(tasks[0].images.source),
        "networks": sorted({model for model, _ in features.networks.values()}),
        "files": digests(files, tasks[0].protocol_dir),
        **environment(),
    }


def environment() -> dict[str, Any]:
    """Returns versions of packages and the devices of this process, for the record in reports.

    Returns:
      {"versions": package -> version, "devices": number and kind of the devices as text}.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        "devices": mesh.counted(mesh.describe_devices()),
    }


def digests(paths: Iterable[Path], folder: Path) -> dict[str, str]:
    """Returns name -> digest of files and folders, to record the inputs of an evaluation.

    A digest is the first 12 digits of a SHA-256; that of a missing file is "". The digest of a
    folder is computed from the names and the digests of all files in it.

    Args:
      paths: the files and folders.
      folder: the folder of protocol files. The name of a path inside of it is relative to it. The
        name of any other path is its last two parts, or more parts if two names would be equal.
    """
    found = {}
    for path, name in _distinct_names(map(Path.absolute, paths), folder.absolute()).items():
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            lines = [f"{file.relative_to(path).as_posix()} {digest(file)}" for file in files]
            found[name.as_posix()] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
        else:
            found[name.as_posix()] = digest(path)
    return found


def _distinct_names(paths: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Returns path -> name, with the rules of `digests` for names, in the order of the paths."""
    paths = list(paths)
    inside = {path: path.relative_to(folder) for path in paths if path.is_relative_to(folder)}
    # The names inside are fixed: a later evaluation looks for the files of these names.
    taken = set(inside.values())
    names = {}
    for path in dict.fromkeys(paths):
        ends = (Path(*path.parts[-count:]) for count in range(2, len(path.parts) + 1))
        names[path] = inside.get(path) or next(name for name in ends if name not in taken)
        taken.add(names[path])
    return names


class FeatureCache:
    """Provides the features of images, and computes or reads them only once.

    They are computed by a network, or read from a file of features that the user named. Tasks that
    share images, such as two protocols on one data set, then share the features too.

    Args:
      scratch: folder to which computed features are written. The arrays that methods return are
        mapped from these files into memory. The caller removes the folder.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._features: dict[Images, NamedFeatures] = {}
        self._images: dict[Images, NamedImages] = {}
        self.networks: dict[Images, tuple[str, str]] = {}
        """Digest and mirror merge of the network behind the features; "" for an unknown one."""
        self.digests: dict[str, str] = {}
        """Digests of names and features, by the images' label."""

    def of(self, images: Images) -> NamedFeatures:
        """Returns the features [images, dim] of images with the images' names.

        At the first call for these images the network computes the features, or they are read from
        the file of features.

        Raises:
          InputError: the file cannot be read, or the network cannot embed the images.
        """
        if images not in self._features:
            if images.dataset is None:
                self._features[images] = read_features(images.source)
                self.networks[images] = read_origin(images.source)
            else:
                self._features[images] = self._embed(images, images.dataset)
            self.digests[str(images)] = self._features[images].digest()
        return self._features[images]

    def _embed(self, images: Images, dataset: str) -> NamedFeatures:
        network = open_network(images.source, images.checkpoint, images.mirror)
        if images.shrink is not None:
            network = network._replace(shrink=images.shrink)
        self.networks[images] = network.digest, network.mirror
        split = network.open_split(dataset, images.split, images.data_dir)
        change = None if images.area == FULL else partial(degrade, factor=images.area)
        # A number as the name, because the label of the images contains a slash.
        path = self._scratch / str(len(self._features))
        found = embed_into(path, split, network, change=change)
        self._images[images] = found.images
        smaller = (f"images made {images.area:g} times smaller in area, bicubic",)
        steps = (split.step, *(() if change is None else smaller), *network.steps)
        named = NamedFeatures(found.images.names, found.features, steps, found.norms)
        return check(named, split.dataset)

    def distractors(self, images: Images) -> Distractors:
        """Returns the features [distractors, dim] of distractors, and the names of the images.

        Distractors are images of people who are not searched for. If `images.source` is an .npy
        file, it is mapped into memory, and the names are read from the .txt file beside it. Without
        that .txt file the names are None.

        Raises:
          InputError: a file cannot be read, or the network cannot embed the images.
        """
        path = images.source
        if images.dataset is not None or path.suffix.lower() == ".npz":
            named = self.of(images)
            return Distractors(named.features, list(named.names))
        # Mapped, since a million distractors may not fit into memory.
        features = open_npy(path, mapped=True)
        with path.open("rb") as file:
            self.digests[str(images)] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        listed = path.with_suffix(".txt")
        rows = len(features) if features.ndim else 0
        return Distractors(features, read_names(listed, rows) if listed.is_file() else None)

    def pixels(self, images: Images) -> Pixels | None:
        """Returns a function from an image's name to its pixels, for pictures in the report.

        The pixels are [height, width, channels] uint8. The result is None for features from a file,
        and for images whose features were not computed yet.
        """
        stored = self._images.get(images)
        if stored is None:
            return None
        rows = {name: row for row, name in enumerate(stored.names)}
        return lambda name: stored.pixels(rows[name])
