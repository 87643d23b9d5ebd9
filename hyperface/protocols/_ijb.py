"""Reads the templates of IJB-A, CS3, IJB-B and IJB-C; a template is a set of images of a person."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.protocols._lines import Line, after, read_lines

_BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
_KNOWN = {
    *_BOX, "TEMPLATE_ID", "SUBJECT_ID", "MEDIA_ID", "SIGHTING_ID", "FILE", "FILENAME",
}  # fmt: skip
"""Columns that are read; other columns are ignored."""


class Templates(NamedTuple):
    """A list of images with the template that each belongs to.

    A template is a set of images of one person. An image that belongs to several templates is
    listed once for each of them.
    """

    template: np.ndarray
    """[images] int64, the id of the image's template."""
    subject: np.ndarray | None
    """[images] int64, the id of the person in the image; None if the file does not have people."""
    media: np.ndarray
    """[images] int64, the id of the medium (a photo or a video) that the image comes from. All
    frames of one video share it."""
    names: list[str]
    """[images] names of the image files, as paths below the data set's folder."""
    box: np.ndarray | None = None
    """[images, 4] float64, the face in the image file: left, top, width and height in pixels. A
    value that the file leaves out is NaN. None if the file has no such columns."""


class Landmarks(NamedTuple):
    """Five landmarks of each face, for alignment, and the score of the face detector."""

    names: list[str]
    """[images] names of the image files."""
    points: np.ndarray
    """[images, 5, 2] float64, x and y in pixels of both eyes, the nose, and both corners of the
    mouth, in the order of the file."""
    score: np.ndarray
    """[images] float64 in [0, 1], how sure the detector is that the image shows a face."""


def read_ijb_templates(path: Path | str) -> Templates:
    """Reads templates and their people from a CSV file of IJB-A or Janus CS3.

    A template is a set of images of one person. IJB-A's files are `train_1.csv` and
    `verify_metadata_1.csv` for verification (1:1), and `search_gallery_1.csv` and
    `search_probe_1.csv` for search (1:N). Columns are found by their names in the header. These are
    read, and others are ignored:

    - TEMPLATE_ID, SUBJECT_ID, and FILE or FILENAME;
    - MEDIA_ID, or SIGHTING_ID if there is no MEDIA_ID;
    - FACE_X, FACE_Y, FACE_WIDTH and FACE_HEIGHT, which are read if all four are there.

    Args:
      path: the file.

    Returns:
      The templates, with one row per line of the file.

    Raises:
      InputError: a column is missing or occurs twice, a line is malformed, or two lines name
        different people for one template. The message names the line.

    References:
      Klare et al.: Pushing the frontiers of unconstrained face detection and recognition: IARPA
      Janus Benchmark A, CVPR 2015.
    """
    header, *lines = read_lines(path)
    named = [name.upper() for name in header.csv_fields()]
    columns = {name: index for index, name in enumerate(named)}
    # Columns that are not read may have the same name.
    if twice := [name for name, count in Counter(named).items() if count > 1 and name in _KNOWN]:
        raise header.fault("each column once", f"{twice[0]} again")
    numbers = [_column(header, columns, n) for n in ("TEMPLATE_ID", "SUBJECT_ID")]
    numbers.append(_column(header, columns, "MEDIA_ID", "SIGHTING_ID"))
    name = _column(header, columns, "FILE", "FILENAME")
    has_box = all(side in columns for side in _BOX)
    if not lines:
        raise after([header]).fault("images", "the end of the file")
    ids, names, boxes, people = [], [], [], {}
    for line in lines:
        fields = line.csv_fields()
        if len(fields) < len(named):
            raise line.fault(f"the header's {len(named)} fields", str(len(fields)))
        ids.append([line.whole(fields[column], "an id") for column in numbers])
        names.append(line.image(fields[name]))
        boxes.append([_side(line, fields[columns[side]], side) for side in _BOX if has_box])
        template, person, _ = ids[-1]
        # Later code takes one row for the person of a whole template.
        if people.setdefault(template, person) != person:
            raise line.fault(f"person {people[template]} of template {template}", str(person))
    template, subject, media = np.array(ids, np.int64).T
    return Templates(template, subject, media, names, np.array(boxes) if has_box else None)


def read_ijb_faces(path: Path | str) -> Templates:
    """Reads templates without people from `ijbb_face_tid_mid.txt` or `ijbc_face_tid_mid.txt`.

    A template is a set of images of one person. A medium is a photo or a video, and the frames of a
    video are images. The file does not name the person of a template.

    Args:
      path: the file. A line such as "1.jpg 1 69544" has the image's name, the id of its template,
        and the id of its medium.

    Returns:
      The templates, with one row per line of the file; `subject` and `box` are None.

    Raises:
      InputError: a line is malformed. The message names the line.
    """
    ids, names = [], []
    for line in read_lines(path):
        fields = line.fields()
        if len(fields) != 3:
            raise line.fault("an image, its template and its media")
        names.append(line.image(fields[0]))
        ids.append([line.whole(field, "an id") for field in fields[1:]])
    template, media = np.array(ids, np.int64).T
    return Templates(template, None, media, names)


def read_ijb_landmarks(path: Path | str) -> Landmarks:
    """Reads the landmarks and detector scores of the faces of IJB-B or IJB-C.

    Args:
      path: the file `ijbb_name_5pts_score.txt` or `ijbc_name_5pts_score.txt`. A line has the
        image's name, x and y of five landmarks in pixels, and the score of the face detector.

    Returns:
      The landmarks, with one row per line. If the file of faces (`read_ijb_faces`) is of the same
      data set and release, its rows have the same order.

    Raises:
      InputError: a line is malformed. The message names the line.
    """
    names, numbers = [], []
    for line in read_lines(path):
        name, *rest = line.fields()
        if len(rest) != 11:
            raise line.fault("an image, ten coordinates and a score")
        names.append(line.image(name))
        numbers.append([line.decimal(field, "a coordinate or score") for field in rest])
        if not 0 <= numbers[-1][10] <= 1:
            raise line.fault("a score in [0, 1]", rest[10])
    table = np.array(numbers)
    return Landmarks(names, table[:, :10].reshape(-1, 5, 2), table[:, 10])


def _column(header: Line, columns: dict[str, int], *names: str) -> int:
    for name in names:
        if name in columns:
            return columns[name]
    raise header.fault(f"a header with the column {' or '.join(names)}")


def _side(line: Line, field: str, side: str) -> float:
    value = line.decimal(field, f"{side} in pixels") if field else np.nan
    # A size that the file leaves out is NaN, which passes this comparison.
    if side in _BOX[2:] and value <= 0:
        raise line.fault(f"{side} above 0", field)
    return value
