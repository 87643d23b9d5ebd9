"""Measures how well and how fast MTCNN finds faces in raw photos.

    python benchmarks/detection.py photos.zip landmarks.csv

The photos are in a folder or an archive, with one folder per person. The landmarks are those of
another program. The distance between both programs' points is divided by the distance of the eyes.
Then faces are found in photos of many sizes, which shows that no size costs a compilation.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from hyperface.data.detection import Mtcnn, chosen
from hyperface.data.images import upright
from hyperface.data.landmarks import read_landmarks
from hyperface.data.sources import open_source

SIZES = (0.4, 0.7, 1.0, 1.3, 1.9, 2.7)
"""Factors by which the sides of photos are multiplied, for photos of mixed sizes."""


def main() -> None:
    """Measures accuracy, speed, mixed sizes and large photos, and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("landmarks", type=Path)
    options = parser.parse_args()
    # Seconds of each compilation, as JAX reports them.
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            event.startswith("/jax/core/compile") and compiled.append(seconds)
        )
    )
    source = open_source(options.photos, Path())
    photos = [upright(source.read(index), channels=3) for index in range(len(source.names))]
    detector = Mtcnn()
    began, busy = time.perf_counter(), time.process_time()
    detector(photos[0])
    took, busy = time.perf_counter() - began, time.process_time() - busy
    print(f"first photo: {took:.2f} s ({busy:.2f} s of CPU), compilation {sum(compiled):.2f} s")
    _accuracy(detector, photos, source.names, read_landmarks(options.landmarks))
    _mixed_sizes(detector, photos)
    print(f"compilation in all: {sum(compiled):.2f} s")
    _large(detector, photos)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"largest memory of the process: {peak:,.0f} MB")


def _accuracy(
    detector: Mtcnn, photos: list[np.ndarray], names: list[str], expected: dict[str, np.ndarray]
) -> None:
    """Prints the number of faces found, the distance to the expected points, and time per photo.

    Args:
      detector: the detector.
      photos: images [height, width, 3] uint8.
      names: name of each photo.
      expected: name of a photo -> [5, 2] points of its face by another program, in pixels.
    """
    offsets, seconds = [], []
    # The time of all threads beside the wall time: MTCNN's programs use several cores.
    busy = time.process_time()
    for name, pixels in zip(names, photos, strict=True):
        began = time.perf_counter()
        faces = detector(pixels)
        seconds.append(time.perf_counter() - began)
        for index in chosen(faces, pixels.shape[:2]):
            # Points 0 and 1 are the eyes.
            points = expected[name]
            offset = faces.landmarks[index] - points
            offsets.append(offset / np.linalg.norm(points[1] - points[0]))
    busy = (time.process_time() - busy) / len(photos) * 1000
    print(f"found: {len(offsets)} of {len(photos)} photos")
    found = np.array(offsets)
    _print_distance("points", np.linalg.norm(found, axis=-1))
    _print_distance("mean of a face's five points", np.linalg.norm(found, axis=-1).mean(axis=1))
    shift = np.median(found, axis=(0, 1))
    print(f"median offset: {shift[0]:+.4f} to the right, {shift[1]:+.4f} down")
    median, fastest = np.median(seconds) * 1000, np.min(seconds) * 1000
    print(f"per photo: {median:.1f} ms (median), {fastest:.1f} ms (least), CPU {busy:.1f} ms")


def _print_distance(what: str, distances: np.ndarray) -> None:
    median, p90 = np.quantile(distances, [0.5, 0.9])
    print(f"distance of {what}: median {median:.4f}, 90th percentile {p90:.4f}")


def _mixed_sizes(detector: Mtcnn, photos: list[np.ndarray]) -> None:
    """Prints the time and the number of faces for 60 photos, all of different sizes."""
    found = 0
    seconds = []
    for number, pixels in enumerate(photos[:60]):
        # The second summand makes each size unique, so that a program per size would show.
        scale = SIZES[number % len(SIZES)] + number / 1000
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        image = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        began = time.perf_counter()
        found += len(chosen(detector(image), image.shape[:2]))
        seconds.append(time.perf_counter() - began)
    print(
        f"60 photos of 60 sizes: {found} found, {np.median(seconds) * 1000:.1f} ms (median), "
        f"{np.max(seconds) * 1000:.1f} ms (most)"
    )


def _large(detector: Mtcnn, photos: list[np.ndarray]) -> None:
    """Prints time and faces for a photo of 10 megapixels with 8 people, and one of 24 with one."""
    group = np.full((2592, 3872, 3), 100, np.uint8)
    # Evenly spaced photos show different people, since photos are sorted by person.
    for place, pixels in enumerate(photos[:: len(photos) // 8][:8]):
        row, column = divmod(place, 4)
        face = Image.fromarray(pixels).resize((800, 800), Image.Resampling.BICUBIC)
        group[200 + row * 1200 :][:800, 100 + column * 950 :][:, :800] = np.asarray(face)
    portrait = np.asarray(Image.fromarray(photos[0]).resize((4900, 4900)))
    for what, image in (("10-megapixel photo of 8", group), ("24-megapixel portrait", portrait)):
        began = time.perf_counter()
        found = len(detector(image).boxes)
        print(f"{what}: {found} found, {(time.perf_counter() - began) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
