"""Networks that the commands embed images with, and prepared splits embedded by them."""

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
"""Features that are read at once."""
BATCH = 256
"""Images that are embedded at once, split over the devices."""


class _Processes(AllDevices):
    """All processes, of which each has a network that puts images on devices itself."""

    def split(self, images: np.ndarray) -> Images:
        return images


class Network(NamedTuple):
    """A function that computes features of images, with the properties of its network."""

    apply: Callable[[Images], tuple[jax.Array, jax.Array]]
    """images [batch, height, width, channels] -> (features, merged with those of the mirror images;
    norms of the features before the merge)."""
    image_shape: tuple[int, int, int] | None
    """Shape of the images that it takes; None takes any."""
    crop: tuple[int, int] | None
    """Height and width that are cut out of a data set's images."""
    shrink: int
    """Factor by which a data set's images are made smaller per side, before that."""
    steps: tuple[str, ...]
    """The procedure: sentences that state what the network is and does."""
    digest: str = ""
    """Digest of its weights, which shows whether a calibration is of this network."""
    mirror: Mirror = "none"
    """How features of image and mirror image are merged."""
    calibration: StoredCalibration | None = None
    """The calibration of an export, if it has one."""

    def open_split(self, name: str, split: str, data_dir: Path) -> Split:
        """Opens a split, and checks that its images have the network's size.

        Raises:
          InputError: there is no such data set, or its images have another size.
        """
        opened = open_split(name, split, data_dir, crop=self.crop, shrink=self.shrink)
        wanted, found = self.image_shape, tuple(opened.image_shape)
        fits = wanted in (None, found)
        expect(fits, opened.dataset, f"images of {wanted}, as the network takes", found)
        return opened


class Embedded(NamedTuple):
    """The images of a split with their features and norms, in stored order."""

    images: NamedImages
    features: np.ndarray
    """[images, dim], mapped from a file, so that only the rows in use are in memory."""
    norms: np.ndarray
    """[images] float32, length of the feature of the image itself, without its mirror image."""

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (features, labels) of the images, block by block, so that memory stays small."""
        for start in range(0, len(self.features), BLOCK):
            block = slice(start, start + BLOCK)
            yield self.features[block], self.images.labels[block]


def open_network(path: Path, step: int | None = None, mirror: Mirror | None = None) -> Network:
    """Opens the network of a run, an export or a file of weights, or the raw pixels as features.

    Args:
      path: one of: the folder of a run; an `embedder.stablehlo` that `hyperface export` wrote, or
        its folder; a file of weights whose network can be detected; "pixels", whose features are
        the images themselves.
      step: step of the run's checkpoint; the newest by default.
      mirror: how features of image and mirror image are merged; by default as in the run. An export
        has a fixed way. Pixels and files of weights are not merged.

    Raises:
      InputError: there is no network at the path.
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
    exported = path / "embedder.stablehlo" if path.is_dir() else path
    if exported.suffix.lower() == ".stablehlo" and exported.is_file():
        return _exported(exported, step, mirror)
    if not path.is_dir() and not is_weights(path):
        raise InputError(
            "expected a run's folder, an exported embedder, 'pixels', or a file of weights "
            f"({KNOWN}), found {path}."
        )
    return _saved(path, read_backbone(path, step), mirror)


def _saved(path: Path, saved: SavedBackbone, mirror: Mirror | None) -> Network:
    """Returns the network of a run or of a weight file, which is taken without mirror images."""
    experiment = saved.experiment or {"evaluation": {"mirror": "none"}, "data": {}}
    merge: Mirror = mirror or experiment["evaluation"]["mirror"]
    network = saved.network()
    # Linen returns a tuple where collections are mutable, and here none is.
    apply = embedder(cast(Callable[[Any, jax.Array], jax.Array], network.apply), merge)
    variables = traverse_util.unflatten_dict(saved.arrays, sep="/")
    # Once, or each batch would carry the parameters to the devices again.
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
        experiment["data"].get("shrink", 1),
        steps,
        digest=saved.digest(),
        mirror=merge,
    )


def _exported(path: Path, step: int | None, mirror: Mirror | None) -> Network:
    record = exported.read_record(path.with_name(exported.NAME))
    program = exported.read_file(path.parent, record, path.name)
    shape, merge = tuple(record["input"][1:]), record["mirror"]
    crop = record["crop"] and tuple(record["crop"])
    expect(merge in MIRROR_STEPS, f"{path}: mirror", " or ".join(MIRROR_STEPS), merge)
    if step is not None or mirror not in (None, merge):
        raise InputError(
            f"{path}: expected no checkpoint or --mirror, which an export fixes ({merge})."
        )
    embed = open_stablehlo(program, shape, str(path))
    at = "" if record["step"] is None else f" of step {record['step']}"
    steps = (
        f"exported {record['model']}{at}, images of "
        f"{' x '.join(map(str, shape))}, {record['pixels']}",
        MIRROR_STEPS[merge],
    )

    def apply(images: Images) -> tuple[jax.Array, jax.Array]:
        # An exported program takes NumPy's arrays too.
        features = embed(cast(jax.Array, images))
        return features, l2_norm(features)

    carried = record.get("calibration")
    return Network(
        apply,
        shape,
        crop,
        record["shrink"],
        steps,
        digest=record["files"][path.name]["sha256"][:16],
        mirror=merge,
        calibration=from_dict(carried, str(path.with_name(exported.NAME))) if carried else None,
    )


def _reserve(path: Path, size: int) -> None:
    """Creates a file of that many bytes, all of them on the disk.

    A file with holes would end the process by SIGBUS where the disk is full.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            # A full disk is an error here; in a mapped file it would kill the process later.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, BLOCK):
                file.write(bytes(min(BLOCK, size - start)))


def embed_into(
    path: Path,
    split: Split,
    network: Network,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Embedded:
    """Embeds a split, together with the other processes, and writes the features to a file.

    Args:
      path: path of the file.
      split: the images.
      network: the network that embeds the images.
      change: function that changes every image first, as `evaluation_batches` takes it.

    Raises:
      InputError: the images have no names, or a feature is zero or not finite.
    """
    if "name" not in split.records[0]:
        raise InputError(f"{split.dataset}: expected images with names, found none.")
    names = [record["name"].decode() for record in split.records]
    labels, norms = np.empty(len(names), np.int32), np.empty(len(names), np.float32)
    features, done = None, 0
    devices = _Processes()
    share = {"process": devices.process, "processes": devices.processes}
    title = f"embedding {split.dataset} ({split.name})"
    with program.progress(title, "images") as advance:
        for batch in evaluation_batches(split, batch_size=BATCH, change=change, **share):
            part: Embeddings = embed_split(
                lambda _, images: network.apply(images), None, [batch], devices
            )
            # Refused at the first batch and not after all of them.
            if not (np.isfinite(part.norms).all() and part.norms.all()):
                raise InputError(
                    f"{split.dataset}: expected finite features above zero, found others: has the "
                    "run diverged?"
                )
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
    images = NamedImages(names, labels, lambda place: decode(split.records[place]["image"]))
    # There is at least one image, whose record is read above, and so there are features.
    return Embedded(images, cast(np.ndarray, features), norms)
