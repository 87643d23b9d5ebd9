"""Shows a prepared data set: logs its counts, and draws pictures of it."""

import io
import logging
from pathlib import Path

import numpy as np

from hyperface import owned
from hyperface.data import datasets
from hyperface.data.images import decode
from hyperface.data.manifest import Manifest
from hyperface.errors import InputError
from hyperface.report.canvas import write_picture
from hyperface.report.data_figures import images_per_identity
from hyperface.report.sheets import contact_sheet

log = logging.getLogger("hyperface")

PICTURES = ("faces", "images-per-identity")
"""Names of the pictures that are drawn for each split."""
SHEET = 60
"""Number of images on a sheet of faces."""
SHOWN = 10
"""Number of rejected images that are logged; the manifest lists all."""


def inspect(name: str, data_dir: Path | None = None) -> None:
    """Logs the counts of a prepared data set, and draws pictures into its folder.

    For each split the pictures are a sheet of faces, and a histogram of images per identity.

    Args:
      name: name of the data set.
      data_dir: folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache.

    Raises:
      InputError: there is no such data set, or `hyperface prepare` did not write it.
    """
    data_dir = datasets.data_directory(data_dir)
    folder = datasets.find(name, data_dir)
    if folder is None:
        raise InputError(f"expected a prepared data set {name!r} in {data_dir}.")
    if Manifest.source_of(folder) is None:
        raise InputError(
            f"expected a data set of hyperface prepare in {folder}, found no manifest.json."
        )
    manifest = Manifest.read(folder)
    log_contents(folder, manifest)
    names = [f"{split}-{name}.png" for split in manifest.images for name in PICTURES]
    # All names before the first picture is drawn, so that a taken name leaves none of them.
    owned.check_free(*(folder / name for name in names))
    advice = "The counts are above. For the pictures, copy the data set to a writable folder."
    with owned.writing(folder, advice):
        _draw(name, folder, data_dir, manifest)


def log_contents(folder: Path, manifest: Manifest) -> None:
    """Logs the counts of a data set, and the first ten images and files that were left out.

    Args:
      folder: the folder of the data set, which is only named in the log.
      manifest: the record of the data set's images and people.
    """
    size = " x ".join(map(str, manifest.image_shape))
    for split, count in manifest.images.items():
        people = len(manifest.people[split])
        log.info(
            f"{folder} ({split}): {count:,} images of {people:,} identities, {size}, "
            f"{manifest.alignment}"
        )
    empty = [
        person
        for split, counts in manifest.images_per_identity.items()
        for person, count in zip(manifest.people[split], counts, strict=True)
        if not count
    ]
    if empty:
        log.info(f"{len(empty):,} identities have no usable image, first {empty[0]}")
    if manifest.rejected:
        log.info(f"{len(manifest.rejected):,} images left out, all listed in manifest.json:")
    for name, reason in manifest.rejected[:SHOWN]:
        log.info(f"  {name}: {reason}")
    if manifest.ignored:
        log.info(
            f"{len(manifest.ignored):,} hidden folders and files that are not images left out, all "
            "listed in manifest.json:"
        )
    for name, reason in manifest.ignored[:SHOWN]:
        log.info(f"  {name}: {reason}")


def _draw(name: str, folder: Path, data_dir: Path, manifest: Manifest) -> None:
    """Draws the pictures of each split, and logs their paths.

    Args:
      name: name of the data set.
      folder: folder of the data set, in which the pictures are written.
      data_dir: folder of prepared data sets.
      manifest: the manifest of the data set.
    """
    faces, by_identity = PICTURES
    # A fixed seed, so that the same data set always gives the same picture.
    rng = np.random.default_rng(0)
    for split, counts in manifest.images_per_identity.items():
        records = datasets.open_split(name, split, data_dir).records
        # Sorted, so that the images are read, and shown, in the order of the files.
        chosen = np.sort(rng.permutation(len(records))[:SHEET])
        shown = [records[int(index)] for index in chosen]
        sheet = contact_sheet(
            [decode(record["image"]) for record in shown],
            [record["name"].decode() for record in shown],
        )
        data = io.BytesIO()
        sheet.save(data, "PNG")
        owned.write_bytes(folder / f"{split}-{faces}.png", data.getvalue())
        # Without the people who have no usable image; their number is logged instead.
        figure = images_per_identity(np.array([c for c in counts if c]))
        write_picture(folder / f"{split}-{by_identity}.png", figure)
        for picture in PICTURES:
            log.info(str(folder / f"{split}-{picture}.png"))
