"""A source of photos as a source of faces, where photos show several."""

import dataclasses
from collections.abc import Collection

import numpy as np

from hyperface.data.landmarks import image_of
from hyperface.data.sources.source import Source
from hyperface.errors import InputError


def with_faces(source: Source, faces: Collection[str]) -> Source:
    """Returns a source with an image for each face that landmarks name.

    An image without landmarks stays once. Each face gets the identity of its photo.

    Args:
      source: the photos.
      faces: names as `landmarks.face_name` makes them: IMAGE, IMAGE#2, IMAGE#3.

    Raises:
      InputError: the source has pairs of images, or a name belongs to an image and to a face.
    """
    photos = {name: index for index, name in enumerate(source.names)}
    further: dict[int, list[str]] = {}
    for name in faces:
        if name not in photos and image_of(name) in photos:
            further.setdefault(photos[image_of(name)], []).append(name)
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
