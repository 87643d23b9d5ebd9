"""Runs a detector over a source and writes the landmarks file, which people may edit.

Photos are done in parts, each of which is a file of its own until the landmarks file is whole: a
killed command goes on after its last part.
"""

import contextlib
import csv
import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from hyperface import owned
from hyperface.data import images
from hyperface.data.detection.faces import Detector, Which, checked, chosen
from hyperface.data.landmarks import COLUMNS, face_name
from hyperface.data.sources import Source
from hyperface.errors import InputError
from hyperface.files import digest, read_json

LANDMARKS, SUMMARY = "landmarks.csv", "landmarks.json"
"""What is written into the folder: the landmarks, and what they were found in and by."""
BOX = ("left", "top", "right", "bottom")
EXTRA = ("score", *BOX, "faces")
"""Columns that people look at and `read_landmarks` ignores; `faces` is the number in the photo."""
PART = 1000
"""Photos of a part."""
AHEAD = 4
"""Decoded photos that wait for the detector: at most 300 MB of the largest."""


class Found(NamedTuple):
    """Where the landmarks of a source are, and what was found."""

    path: Path
    photos: int
    with_faces: int
    with_several: int
    unreadable: int
    """Photos that could not be decoded; preparing lists them with the reason."""

    def __str__(self) -> str:
        several = f", {self.with_several:,} of them with several" if self.with_several else ""
        unreadable = f", {self.unreadable:,} are unreadable" if self.unreadable else ""
        return (
            f"{self.with_faces:,} of {self.photos:,} photos have a face{several}{unreadable}; "
            f"landmarks, which can be edited and given back by --landmarks: {self.path}"
        )


def find_landmarks(
    source: Source,
    detector: Detector,
    folder: Path,
    which: Which = "largest",
    *,
    keep: Collection[str] | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Finds the faces of a source and writes `landmarks.csv` into a folder, unless it is there.

    A photo without a face gets a line of nan, which can be filled in by hand.

    Args:
      source: the photos.
      detector: as `Detector` says; `Mtcnn()` is one.
      folder: of the data set that is prepared from the photos.
      which: which of several faces of a photo are taken, as `chosen` says.
      keep: names of the photos to look at; None looks at all.
      replace: take the place of landmarks of another source, detector or choice.
      progress: called with (photos done, photos in all).

    Raises:
      InputError: the folder has landmarks that were edited, or of other photos; it cannot be
        written; or the detector returned something else than faces.
    """
    indices = [i for i, name in enumerate(source.names) if keep is None or name in keep]
    # Everything that the landmarks depend on: other parts must not be mixed in.
    what = [source.fingerprint, _described(detector), which, [source.names[i] for i in indices]]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    with owned.locked(folder, "being prepared"), owned.writing(folder):
        found = _stored(folder, key, replace)
        if found is not None:
            return found
        owned.claim(folder / LANDMARKS, folder / SUMMARY)
        parts = {start: folder / _part(key, start) for start in range(0, len(indices), PART)}
        _remove_parts(folder, keep={path.name for path in parts.values()})
        for start, path in parts.items():
            # A part is written in one step, so that one that exists is whole.
            if path.exists():
                continue
            lines: list[str] = []
            # Closed here and not by the garbage collector, which may run in one of its threads.
            with contextlib.closing(_photos(source, indices[start : start + PART])) as photos:
                for done, (name, pixels) in enumerate(photos, start + 1):
                    if pixels is not None:
                        lines += _lines(name, pixels, detector, which)
                    if progress is not None:
                        progress(done, len(indices))
            owned.write_text(path, "".join(lines))
        _write(folder, key, [source.names[i] for i in indices], list(parts.values()))
        _remove_parts(folder)
        return cast(Found, _stored(folder, key, replace))  # It was just written.


def _lines(name: str, pixels: np.ndarray, detector: Detector, which: Which) -> Iterator[str]:
    """Yields the lines of a photo: one per face that is taken, or one of nan."""
    try:
        faces = checked(detector(pixels))
    except Exception as error:
        # The detector is the user's own code, so its error passes as it is.
        error.add_note(f"The photo is {name}.")
        raise
    taken = chosen(faces, pixels.shape[:2], which)
    for number, index in enumerate(taken, 1):
        numbers = [*faces.landmarks[index].ravel(), faces.scores[index], *faces.boxes[index]]
        texts = [
            f"{number:.4f}" if i == 10 else f"{number:.2f}" for i, number in enumerate(numbers)
        ]
        yield _line(face_name(name, number), *texts, len(faces.boxes))
    if not taken.size:
        yield _line(name, *["nan"] * 10, *[""] * 5, len(faces.boxes))


def _photos(
    source: Source, indices: list[int]
) -> Generator[tuple[str, np.ndarray | None], None, None]:
    """Yields name and upright pixels of each photo; None where it cannot be read.

    The source is read by one thread, since archives have one position; others decode.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[str, Future]] = deque()
        for index in indices:
            waiting.append((source.names[index], pool.submit(_decoded, *_read(source, index))))
            # Taken out before the next is read, so that no more photos than this are in memory.
            if len(waiting) == AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        for name, future in waiting:
            yield name, future.result()


def _read(source: Source, index: int) -> tuple[bytes]:
    try:
        return (source.read(index),)
    except (ValueError, OSError):
        # No bytes are no image either, so that both faults take one way.
        return (b"",)


def _decoded(data: bytes) -> np.ndarray | None:
    try:
        return images.upright(data, channels=3)
    except ValueError:
        return None


def _described(detector: Detector) -> str:
    """Tells detectors apart; functions by their name."""
    name = getattr(detector, "__qualname__", None)
    return f"{detector.__module__}.{name}" if name else repr(detector)


def _line(*values: object) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _part(key: str, start: int) -> str:
    return f"landmarks-{key}-{start:08}.part"


def _remove_parts(folder: Path, keep: Collection[str] = ()) -> None:
    """Removes the recorded parts, those of an earlier command with other options too."""
    marked = owned.read(folder)
    assert marked is not None  # The folder is being written, and so has a marker.
    for name in marked.files - set(keep):
        if name.startswith("landmarks-") and name.endswith(".part"):
            owned.remove(folder / name)


def _write(folder: Path, key: str, names: list[str], parts: list[Path]) -> None:
    """Writes the landmarks file and its summary.

    The summary comes first: a kill between the two leaves one without its file, which the next
    command notices, and not a file that looks edited.
    """
    text = _line("file", *COLUMNS, *EXTRA) + "".join(path.read_text("utf-8") for path in parts)
    photos = set(names)
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["file"] in photos]
    summary = {
        "key": key,
        "digest": hashlib.sha256(text.encode()).hexdigest()[:12],
        "photos": len(names),
        "with_faces": sum(bool(row["score"]) for row in rows),
        "with_several": sum(int(row["faces"]) > 1 for row in rows),
        "unreadable": len(names) - len(rows),
    }
    # The old file goes first, as beside the new summary it would look edited.
    owned.remove(folder / LANDMARKS)
    owned.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    owned.write_text(folder / LANDMARKS, text)


def _stored(folder: Path, key: str, replace: bool) -> Found | None:
    """Returns what is there already of this key; None if faces have to be looked for."""
    path = folder / LANDMARKS
    if not path.exists():
        return None
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    # Before the key is compared: hand-made work must not be lost to any option.
    if summary.get("digest") != digest(path):
        raise InputError(
            f"{path} was edited since it was written, and would be lost. Pass it by --landmarks in "
            "place of --detect to align by it, or move it elsewhere."
        )
    if summary.get("key") == key:
        return Found(path, *(summary[name] for name in Found._fields[1:]))
    if not replace:
        raise InputError(
            f"expected the landmarks of these photos in {path}, found those of other photos or "
            "options. Take another --out, or pass --replace."
        )
    return None
