"""Runs a detector over a source of photos and writes the landmarks file, which people may edit.

The photos are processed in parts. Each finished part is stored in a file until the landmarks file
is complete, so that a killed command continues after its last part.
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
"""Names of the landmarks file, and of the file with a summary and the key of its inputs."""
BOX = ("left", "top", "right", "bottom")
EXTRA = ("score", *BOX, "faces")
"""Columns for people, which `read_landmarks` ignores. `faces` is the number in the photo."""
PART = 1000
"""Number of photos per part."""
AHEAD = 4
"""Number of decoded photos that wait for the detector; the largest photos take 300 MB together."""


class Found(NamedTuple):
    """The result of `find_landmarks`: the file of landmarks, and the numbers of photos."""

    path: Path
    """The landmarks file that was written: CSV with one line per face."""
    photos: int
    """Number of photos that were searched."""
    with_faces: int
    """Number of photos with at least one face whose landmarks are possible, so that it can be
    aligned."""
    with_several: int
    """Number of photos in which the detector found several faces."""
    unreadable: int
    """Number of photos that could not be decoded. `prepare` lists them with the reason."""

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
    """Finds the faces in a collection of photos, and writes their landmarks to `landmarks.csv`.

    The file has one line per face. A photo without a face gets a line of nan, which can be filled
    in by hand. If the folder already has the landmarks of the same photos, with the same detector
    and the same `which`, no photo is searched again. Results are stored after every 1,000 photos;
    if a call is killed, the next call with the same arguments continues from there.

    Args:
      source: the photos, a `Source` (a collection of images, each with its person).
      detector: function from one photo, [height, width, 3] uint8 RGB, to (boxes [n, 4], scores [n],
        landmarks [n, 5, 2]), such as `Mtcnn()`. Its own errors are raised unchanged.
      folder: the folder of the data set that is prepared from the photos.
      which: which of several faces in a photo are taken: "largest", "central" (the face nearest to
        the centre) or "all".
      keep: names of the photos to search; None searches all.
      replace: whether existing landmarks of other photos, of another detector or of another `which`
        may be replaced. Landmarks that were edited by hand are never replaced.
      progress: called with (number of finished photos, number of all photos).

    Raises:
      InputError: the folder has landmarks that were edited by hand; it has landmarks of other
        photos, of another detector or of another `which`, and `replace` is False; the folder cannot
        be written; or the detector does not return three arrays of the shapes above.
    """
    indices = [i for i, name in enumerate(source.names) if keep is None or name in keep]
    # The key covers all inputs of the landmarks, so that parts of other inputs are never mixed in.
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
            # A part is written atomically, so an existing part is complete.
            if path.exists():
                continue
            lines: list[str] = []
            # Closed here: the garbage collector could close it in one of its own worker threads,
            # which cannot wait for itself.
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
    """Yields the lines of a photo in the landmarks file: one per chosen face, or one of nan.

    Args:
      name: name of the photo.
      pixels: the upright photo, [height, width, 3] uint8.
      detector: finds the faces.
      which: which faces are chosen.
    """
    try:
        faces = checked(detector(pixels))
    except Exception as error:
        # The detector may be the user's own code, whose error is raised unchanged.
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
    """Yields the name and the upright pixels of each photo; None for an unreadable photo.

    One thread reads the source, since an archive has one read position. Other threads decode.
    """
    with ThreadPoolExecutor(AHEAD) as pool:
        waiting: deque[tuple[str, Future]] = deque()
        for index in indices:
            waiting.append((source.names[index], pool.submit(_decoded, *_read(source, index))))
            # One is taken out before the next is read, so that at most AHEAD photos are in memory.
            if len(waiting) == AHEAD:
                name, future = waiting.popleft()
                yield name, future.result()
        for name, future in waiting:
            yield name, future.result()


def _read(source: Source, index: int) -> tuple[bytes]:
    """Returns the encoded photo as a tuple of one item, the arguments of `_decoded`.

    A photo that cannot be read becomes empty bytes.
    """
    try:
        return (source.read(index),)
    except (ValueError, OSError):
        # Empty bytes fail to decode, so that both faults are handled in one place.
        return (b"",)


def _decoded(data: bytes) -> np.ndarray | None:
    """Decodes a photo; returns None if it is damaged."""
    try:
        return images.upright(data, channels=3)
    except ValueError:
        return None


def _described(detector: Detector) -> str:
    """Returns a text that identifies a detector: the name of a function, the repr of an object."""
    name = getattr(detector, "__qualname__", None)
    return f"{detector.__module__}.{name}" if name else repr(detector)


def _line(*values: object) -> str:
    """Formats one line of CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(values)
    return out.getvalue()


def _part(key: str, start: int) -> str:
    return f"landmarks-{key}-{start:08}.part"


def _remove_parts(folder: Path, keep: Collection[str] = ()) -> None:
    """Removes the recorded part files except `keep`, also those with other options."""
    marked = owned.read(folder)
    assert marked is not None  # `find_landmarks` has locked the folder, which gives it a marker.
    for name in marked.files - set(keep):
        if name.startswith("landmarks-") and name.endswith(".part"):
            owned.remove(folder / name)


def _write(folder: Path, key: str, names: list[str], parts: list[Path]) -> None:
    """Writes the landmarks file and its summary.

    Args:
      folder: the folder of the data set.
      key: digest of all inputs, see `find_landmarks`.
      names: names of the photos.
      parts: the files with the lines of each part, in order.
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
    # The old file is removed first: beside the new summary it would look edited. The summary is
    # written next: a kill then leaves a summary without its file, and the next command continues.
    owned.remove(folder / LANDMARKS)
    owned.write_text(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    owned.write_text(folder / LANDMARKS, text)


def _stored(folder: Path, key: str, replace: bool) -> Found | None:
    """Returns the landmarks that the folder already has for this key; None if it has none.

    Args:
      folder: the folder of the data set.
      key: digest of all inputs: the photos, the detector and the choice of faces.
      replace: whether landmarks of another key may be replaced; then None is returned for them.

    Raises:
      InputError: the landmarks were edited, or have another key and `replace` is off.
    """
    path = folder / LANDMARKS
    if not path.exists():
        return None
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
    # Checked before the key and `replace`: no option may delete work that was done by hand.
    if summary.get("digest") != digest(path):
        raise InputError(
            f"{path} was edited since it was written, and would be lost. To align by it, pass it "
            "by --landmarks instead of --detect; or move it elsewhere."
        )
    if summary.get("key") == key:
        return Found(path, *(summary[name] for name in Found._fields[1:]))
    if not replace:
        raise InputError(
            f"expected the landmarks of these photos in {path}, found those of other photos or "
            "options. Take another --out, or pass --replace."
        )
    return None
