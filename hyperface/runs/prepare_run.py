"""Writes a planned data set: finds and aligns faces if asked, and stores the images."""

import dataclasses
import io
import logging
from pathlib import Path

from hyperface import owned
from hyperface.data import detection, store
from hyperface.data.alignment import Aligner
from hyperface.data.manifest import Manifest
from hyperface.data.planning import FEWEST_HELD_OUT, FEWEST_PEOPLE, default_held_out
from hyperface.data.sources import Source
from hyperface.data.sources.faces import with_faces
from hyperface.errors import InputError
from hyperface.report.detections import detection_sheet
from hyperface.runs import program
from hyperface.runs.prepare_inspect import log_contents
from hyperface.runs.prepare_options import AUTOMATIC
from hyperface.runs.prepare_plan import Detection, Task

log = logging.getLogger("hyperface")

SHEET_OF_DETECTIONS = "detections.png"
"""Name of the picture that shows photos with the faces that were found."""
SMALLEST_FACE = 48
"""Smallest side in pixels of images for which we check whether they are unaligned photos."""


def run(task: Task) -> Path:
    """Writes the data set of a task, logs its counts, and returns its folder.

    If the same data set exists already, it is not written again. Images that cannot be used are
    left out and logged; with the option --strict they are an error.

    Args:
      task: the task that `plan` returned.

    Returns:
      The folder DATA_DIR/NAME/VERSION of the data set.

    Raises:
      InputError: no image can be used (with --strict: an image cannot be used), or another data set
        already has the name and the option --replace is not set.
    """
    source, stored = task.source, task.stored
    if task.detection is not None:
        aligner = _find_faces(task, task.detection)
        stored = dataclasses.replace(stored, align=aligner)
    if isinstance(stored.align, Aligner):
        source = with_faces(source, stored.align.landmarks)
    # Logged before the images are read, which takes long, in case the user wants another number.
    held_out = default_held_out(source, stored)
    if held_out is not None:
        log.info(f"test split: {_held_out(held_out)}. --held-out N sets another number.")
    name = task.folder.name
    with program.progress(f"writing {name}", "images") as advance:
        folder = store.prepare(source, task.folder, stored, replace=task.replace, progress=advance)
    manifest = Manifest.read(folder)
    log_contents(folder, manifest)
    # Images that are stored without alignment should be aligned faces already.
    as_it_came = stored.align is None and name not in AUTOMATIC
    if as_it_came and min(manifest.image_shape[:2]) >= SMALLEST_FACE:
        _warn_of_raw_photos(source)
    return folder


def _held_out(people: int) -> str:
    """Describes in words the people who are held out by default; `people` is their number."""
    if not people:
        return f"nobody, of fewer than {FEWEST_PEOPLE} people"
    return f"the last {people:,} people, a tenth and at least {FEWEST_HELD_OUT}"


def _find_faces(task: Task, how: Detection) -> Aligner:
    """Finds the faces of the photos, and writes their landmarks and a picture for the user.

    Args:
      task: gives the photos and the folder.
      how: the detector, and which faces are taken.

    Returns:
      The aligner that uses these landmarks.
    """
    with program.progress("finding faces", "photos") as advance:
        found = detection.find_landmarks(
            task.source,
            how.detector,
            task.folder,
            how.which,
            keep=task.stored.keep,
            replace=task.replace,
            progress=advance,
        )
    log.info(str(found))
    aligner = Aligner(found.path, task.size)
    sheet = detection_sheet(task.source, aligner)
    if sheet is not None:
        data = io.BytesIO()
        sheet.save(data, "PNG")
        path = found.path.with_name(SHEET_OF_DETECTIONS)
        owned.write_bytes(path, data.getvalue())
        log.info(f"look at {path}")
    return aligner


def _warn_of_raw_photos(source: Source) -> None:
    """Warns if images that were stored without alignment look like photos.

    Nothing is checked if the package that finds faces is not installed.
    """
    try:
        detector = detection.Mtcnn()
    # A warning is no reason to require an optional package.
    except InputError:
        return
    reason = detection.look_raw(source, detector)
    if reason:
        log.warning(
            f"warning: these look like photos and not like aligned faces: {reason}. Networks need "
            "aligned ones; --detect finds and aligns the faces."
        )
