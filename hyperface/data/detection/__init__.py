"""Finds faces in photos, so that the faces can be aligned.

`Mtcnn` is the detector of both papers. `find_landmarks` runs a detector over a source of photos and
writes the landmarks file by which `hyperface.data.alignment.Aligner` aligns them.

**A detector of your own** is any callable from a photo to (boxes [n, 4], scores [n],
landmarks [n, 5, 2]). The photo is upright, [height, width, 3] uint8 in RGB order. A box is left,
top, right, bottom. Landmarks are (x, y) of left eye, right eye, nose, left and right corner of the
mouth, where left is left in the image. All are in pixels. For a photo without a face, n is 0.

    from pathlib import Path
    from hyperface.data.detection import find_landmarks
    from hyperface.data.sources import open_source

    source = open_source("photos", Path("data"))
    found = find_landmarks(source, my_detector, Path("data/mine"))
    # then: hyperface prepare photos --out mine --landmarks data/mine/landmarks.csv

**A landmarks file of another program** can be used too. It is a CSV file whose first line names the
columns file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy; other columns are ignored. `file` is the path of
the photo below the folder. The second face of a photo is named PHOTO#2, the third PHOTO#3, and so
on.
"""

from hyperface.data.detection.faces import Detector, Faces, Which, checked, chosen
from hyperface.data.detection.mtcnn import Mtcnn
from hyperface.data.detection.record import Found, find_landmarks
from hyperface.data.detection.unaligned import look_raw

__all__ = [
    "Detector",
    "Faces",
    "Found",
    "Mtcnn",
    "Which",
    "checked",
    "chosen",
    "find_landmarks",
    "look_raw",
]
