"""Turns a source of photos into a source of faces, for photos that show several faces."""

import dataclasses
from collections.abc import Collection

import numpy as np

from hyperface.data.landmarks import image_of
from hyperface.data.sources.source import Source
from hyperface.errors import InputError


def with_faces(source: Source, faces: Collection[str]) -> Source:
    """Returns a source in which a photo with several faces occurs once per face.

    With the result, each face can be aligned and stored as an image of its own. All faces of a
    photo are taken as the person of that photo. The source's function `read` returns the whole
    photo for each face. A photo without a second face stays as it is.

    Args:
      source: the photos.
      faces: names of the faces in the landmarks file: IMAGE for the first face of a photo, and
        IMAGE#k for face k, for k from 2. Names of other photos are ignored.

    Raises:
      InputError: a photo has several faces, but the source has pairs of images for verification,
        which need one face per image.
    """
    photos = {name: index for index, name in enumerate(source.names)}
    further: dict[int, list[str]] = {}
    for name in faces:
        photo = image_of(name, photos)
        if photo != name and photo in photos:
            further.setdefault(photos[photo], []).append(name)
    if not further:
        return source
    if source.pairs is not None:
        raise InputError("expected one face per image, since the source has pairs of images.")
    shown = [(name, i) for i, own in enumerate(source.names) for name in (own, *further.get(i, ()))]
    names, photo_of = zip(*shown, strict=True)
    indices = np.array(photo_of)
    return dataclasses.replace(
        source,
        people=source.people[indices],
        names=names,
        read=lambda index: source.read(photo_of[index]),
        splits=None if source.splits is None else source.splits[indices],
    )
