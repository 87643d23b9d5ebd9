"""Opens the network of a run, an export or a weight file, and embeds prepared splits with it.

To embed an image is to compute its feature.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import traverse_util

from hyperface.data.datasets import Split, open_split
from hyperface.data.images import decode
from hyperface.data.pipeline import evaluation_batches
from hyperface.devices import mesh
from hyperface.errors import InputError, expect
from hyperface.evaluate.calibration_file import StoredCalibration, from_dict
from hyperface.evaluate.embed import (
    MIRROR_STEPS,
    PIXEL_STEP,
    AllDevices,
    Embeddings,
    Images,
    Mirror,
    embed_split,
    embedder,
)
from hyperface.normalize import l2_norm
from hyperface.report.cleaning import NamedImages
from hyperface.runs import program
from hyperface.weights import exported, read_backbone
from hyperface.weights.export import open_stablehlo
from hyperface.weights.files import KNOWN, is_weights
from hyperface.weights.runs import SavedBackbone

BLOCK = 8192
"""Number of features that are read at once."""
BATCH = 256
"""Number of images that are embedded at once, split over the devices."""


class _Processes(AllDevices):
    """All devices of all processes, for a network that itself puts images on the devices."""

    def split(self, images: np.ndarray) -> Images:
        return images


class Network(NamedTuple):
    """A function that computes features of images, with the properties of its network."""

    apply: Callable[[Images], tuple[jax.Array, jax.Array]]
    """The function: images [batch, height, width, channels], scaled by (pixel - 127.5) / 128, ->
    (features [batch, dim], norms [batch]). Features are merged with those of the mirror images. The
    norms are Euclidean norms of the images' own features, before the merge. An export (a network
    that `hyperface export` wrote) returns only merged features, so its norms are those of merged
    features."""
    image_shape: tuple[int, int, int] | None
    """(height, width, channels) of the network's input images; None if it accepts any size."""
    crop: tuple[int, int] | None
    """Height and width that are cut out of the centre of a data set's images; None if the images
    are used whole."""
    shrink: int
    """Factor by which each side of a data set's images is reduced before the crop; 1 for none."""
    steps: tuple[str, ...]
    """Sentences for the report, which describe the network, its images and the merge of mirror
    images."""
    digest: str = ""
    """Digest of the weights; for an export, of the exported program. A calibration (thresholds for
    decisions) with another digest belongs to another network."""
    mirror: Mirror = "none"
    """How the features of an image and of its mirror image are merged: "none" (no mirror image),
    "sum", "max" or "concat"."""
    calibration: StoredCalibration | None = None
    """The calibration that an export contains; None without one."""

    def open_split(self, name: str, split: str, data_dir: Path) -> Split:
        """Opens a split, one of the parts of a data set, such as "train", for this network.

        Its images are reduced by `shrink` and cut to `crop`, like those in the network's training.

        Args:
          name: name of the prepared data set.
          split: name of the split, such as "test".
          data_dir: folder of prepared data sets.

        Raises:
          InputError: there is no such data set, or its images then have another size than the
            network takes.
        """
        opened = open_split(name, split, data_dir, crop=self.crop, shrink=self.shrink)
        wanted, found = self.image_shape, tuple(opened.image_shape)
        fits = wanted in (None, found)
        expect(fits, opened.dataset, f"images of {wanted}, as the network takes", found)
        return opened


class Embedded(NamedTuple):
    """The images of a data set's split with their features and norms, in the order of its files."""

    images: NamedImages
    """Names, labels and pixels of the images. Pixels are decoded when they are asked for."""
    features: np.ndarray
    """[images, dim] float32, mapped from a file, so that only the rows in use are in memory."""
    norms: np.ndarray
    """[images] float32, Euclidean norm of each image's own feature, before the feature of its
    mirror image is merged in."""

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the images in blocks of 8192, so that only a part of the features is in memory.

        Each block is (features [block, dim], labels [block]), in the order of the data set.
        """
        for start in range(0, len(self.features), BLOCK):
            block = slice(start, start + BLOCK)
            yield self.features[block], self.images.labels[block]


def open_network(path: Path, step: int | None = None, mirror: Mirror | None = None) -> Network:
    """Opens the network of a run, an export or a weight file, or one that returns the raw pixels.

    Args:
      path: one of:

        - the folder of a run. If it also contains an export, the run itself is opened.
        - an `embedder.stablehlo` that `hyperface export` wrote, or its folder.
        - a weight file (.onnx, .safetensors, .caffemodel, .pth) of a network that the library has.
        - "pixels": the feature of an image is the vector of its pixels.
      step: step of the run's checkpoint; by default the newest.
      mirror: how the features of an image and of its mirror image are merged: "none" (no mirror
        image), "sum", "max" or "concat". By default as in the run, and "none" for pixels and weight
        files. The merge of an export cannot be changed.

    Raises:
      InputError: there is no network at the path. Or `step` is given, but the path is not a run.
        Or `mirror` is not the way in which an export was written.
    """
    if str(path) == "pixels":
        if step is not None:
            raise InputError("pixels: expected no checkpoint to be chosen, which only a run has.")
        flat = embedder(lambda _, images: images.reshape(images.shape[0], -1), mirror or "none")
        return Network(
            lambda images: flat(None, images),
            None,
            None,
            1,
            (
                f"the pixels themselves are the features, {PIXEL_STEP}",
                MIRROR_STEPS[mirror or "none"],
            ),
            digest="pixels",
            mirror=mirror or "none",
        )
    is_run = (path / "checkpoints").is_dir()
    file = path / "embedder.stablehlo" if path.is_dir() and not is_run else path
    if file.suffix.lower() == ".stablehlo" and file.is_file():
        return _exported(file, step, mirror)
    if not path.is_dir() and not is_weights(path):
        absent = "" if path.exists() else ", where there is no file or folder"
        raise InputError(
            "expected a run's folder, an exported embedder, 'pixels', or a file of weights "
            f"({KNOWN}), found {path}{absent}."
        )
    return _saved(path, read_backbone(path, step), mirror)


def _saved(path: Path, saved: SavedBackbone, mirror: Mirror | None) -> Network:
    """Returns the network of a run or of a weight file.

    Args:
      path: the run's folder or the weight file, for the procedure.
      saved: the backbone that was read from it.
      mirror: as in `open_network`.
    """
    # A weight file does not tell how its network was evaluated.
    experiment = saved.experiment or {"evaluation": {"mirror": "none"}, "data": {}}
    merge: Mirror = mirror or experiment["evaluation"]["mirror"]
    network = saved.network()
    # Linen returns a tuple where collections are mutable, and here none is.
    apply = embedder(cast(Callable[[Any, jax.Array], jax.Array], network.apply), merge)
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    # Put on the devices once; otherwise each batch would copy the parameters there again.
    variables = mesh.put_whole(variables)
    at = "" if saved.step is None else f" at step {saved.step}"
    of = "" if saved.trained_on is None else f", trained on {saved.trained_on}"
    steps = (
        f"network {saved.model} of {path.name}{at}{of}, images of "
        f"{' x '.join(map(str, saved.image_shape))}, {PIXEL_STEP}",
        MIRROR_STEPS[merge],
    )
    crop = experiment["data"].get("crop")
    return Network(
        lambda images: apply(variables, mesh.split_rows(images)),
        saved.image_shape,
        crop and tuple(crop),
        # Recorded only if it is not 1.
        experiment["data"].get("shrink", 1),
        steps,
        digest=saved.digest(),
        mirror=merge,
    )


def _exported(path: Path, step: int | None, mirror: Mirror | None) -> Network:
    """Returns the network of an `embedder.stablehlo` that `hyperface export` wrote."""
    record = exported.read_record(path.with_name(exported.NAME))
    # This compares the file's digest with the record, so that all other fields fit the program.
    data = exported.read_file(path.parent, record, path.name)
    shape, merge = tuple(record["input"][1:]), record["mirror"]
    crop = record["crop"] and tuple(record["crop"])
    expect(merge in MIRROR_STEPS, f"{path}: mirror", " or ".join(MIRROR_STEPS), merge)
    if step is not None or mirror not in (None, merge):
        raise InputError(
            f"{path}: expected no checkpoint or --mirror, which an export fixes ({merge})."
        )
    embed = open_stablehlo(data, shape, str(path))
    at = "" if record["step"] is None else f" of step {record['step']}"
    steps = (
        f"exported {record['model']}{at}, images of "
        f"{' x '.join(map(str, shape))}, {record['pixels']}",
        MIRROR_STEPS[merge],
    )

    def apply(images: Images) -> tuple[jax.Array, jax.Array]:
        # An exported program takes NumPy's arrays too.
        features = embed(cast(jax.Array, images))
        # The merge is a part of the program, so the norm before it is not known.
        return features, l2_norm(features)

    carried = record.get("calibration")
    return Network(
        apply,
        shape,
        crop,
        record["shrink"],
        steps,
        # Of the program's file and not of the weights, which the program does not give back.
        digest=record["files"][path.name]["sha256"][:16],
        mirror=merge,
        calibration=from_dict(carried, str(path.with_name(exported.NAME))) if carried else None,
    )


def _reserve(path: Path, size: int) -> None:
    """Creates a file of a size in bytes, and allocates all of them on the disk.

    Without the allocation the file would have holes. Writing into a hole of a mapped file on a full
    disk ends the process by SIGBUS, without a message.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            # macOS lacks the call. Zeros are written instead, in pieces of little memory.
            for start in range(0, size, BLOCK):
                file.write(bytes(min(BLOCK, size - start)))


def check_directions(embedded: Embeddings, origin: str) -> None:
    """Checks that no feature is zero, NaN or infinite: such features cannot be compared by cosine.

    Args:
      embedded: the features, merged with those of the mirror images, and the norms of the images'
        own features.
      origin: name of the images, for the error message.

    Raises:
      InputError: a feature or a norm is zero or not finite.
    """
    # Both, because a merge can give zero or NaN where the image's own feature is sound.
    lengths = np.linalg.norm(embedded.features, axis=1)
    for values in (lengths, embedded.norms):
        if not (np.isfinite(values).all() and values.all()):
            raise InputError(
                f"{origin}: expected finite features above zero, found others: has the run "
                "diverged?"
            )


def embed_into(
    path: Path,
    split: Split,
    network: Network,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Embedded:
    """Computes the features of a split's images, and writes them to a file.

    If several processes run, each computes a part of the features. Then each process writes the
    features of all images, so each must have a path of its own.

    Args:
      path: the file to write. It contains the float32 numbers of [images, dim] without a header,
        and the result maps it into memory.
      split: the images, which must have names.
      network: the network that computes the features.
      change: function that is applied to each stored image, [height, width, channels] uint8, before
        the crop, and returns the image to embed, such as one of low resolution. None changes
        nothing.

    Returns:
      All images with their features and norms, in every process.

    Raises:
      InputError: the images have no names, or a feature is zero or not finite.
    """
    # Protocols and lists find the feature of an image by its name.
    if "name" not in split.records[0]:
        raise InputError(f"{split.dataset}: expected images with names, found none.")
    names = [record["name"].decode() for record in split.records]
    labels, norms = np.empty(len(names), np.int32), np.empty(len(names), np.float32)
    # The number of dimensions, and with it the size of the file, is known after the first batch.
    features, done = None, 0
    devices = _Processes()
    share = {"process": devices.process, "processes": devices.processes}
    title = f"embedding {split.dataset} ({split.name})"
    with program.progress(title, "images") as advance:
        for batch in evaluation_batches(split, batch_size=BATCH, change=change, **share):
            part: Embeddings = embed_split(
                lambda _, images: network.apply(images), None, [batch], devices
            )
            # In each batch, so that hours of embedding do not come before the error.
            check_directions(part, split.dataset)
            if features is None:
                shape = len(names), part.features.shape[1]
                _reserve(path, 4 * shape[0] * shape[1])
                # In a file, since the features of a large set may not fit into memory.
                features = np.memmap(path, np.float32, "r+", shape=shape)
            block = slice(done, done + len(part.labels))
            features[block], labels[block] = part.features, part.labels
            norms[block] = part.norms
            done = block.stop
            advance(done, len(names))
    # Pixels are decoded again when a page shows them, because those of a split may fill the memory.
    images = NamedImages(names, labels, lambda place: decode(split.records[place]["image"]))
    # There is at least one image, whose record is read above, and so there are features.
    return Embedded(images, cast(np.ndarray, features), norms)
