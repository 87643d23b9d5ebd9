"""Reads only the backbone from a checkpoint of a run."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn
from flax import traverse_util

from hyperface import experiments, models
from hyperface.errors import InputError
from hyperface.train.checkpoint.integrity import (
    Changed,
    checksums,
    read_step,
    reading,
    saved_tree,
)


class SavedBackbone(NamedTuple):
    """A trained backbone, with its description from a run or a weight file."""

    arrays: dict[str, np.ndarray]
    """Arrays by path, such as "params/conv1/kernel". If the run kept a moving average of its
    parameters, these are the averages, because evaluation uses them."""
    model: str
    """Name of the network."""
    feature_dim: int | None
    """Length of the features; None if the user supplied the backbone as a Flax module, whose
    feature length is fixed and not recorded."""
    image_shape: tuple[int, int, int]
    """[height, width, channels] of the images."""
    experiment: dict[str, Any] | None = None
    """The run's experiment, as `Experiment.to_dict` returns it; None for a weight file."""
    step: int | None = None
    """Step of the run's checkpoint; None for a weight file."""
    init_from: str | None = None
    """Name and digest of the weight file from which the run started (fine-tuning); None for a run
    that started from random parameters. If `arrays` come from a weight file and not from a run, the
    name and digest of that file."""
    trained_on: str | None = None
    """Pixel values that another program's weight file was trained on, as a text; None for our own
    runs and files."""
    folder: Path | None = None
    """The folder of the run, which contains a copy of the user's experiment file, if there was one.
    None for a weight file."""

    def digest(self) -> str:
        """Returns the first 16 hexadecimal digits of a SHA-256 over the arrays and their names."""
        total = hashlib.sha256(self.model.encode())
        for name, array in sorted(self.arrays.items()):
            total.update(f"{name} {array.dtype} {array.shape};".encode())
            total.update(array.tobytes())
        return total.hexdigest()[:16]

    def network(self) -> nn.Module:
        """Returns the backbone as a module that computes in float32.

        Raises:
          InputError: the backbone is a module that the user's experiment file built, and the copy
            of that file in the run's folder does not build the same module any more.
        """
        if self.experiment is None or "backbone" not in self.experiment["model"]:
            assert self.feature_dim is not None  # Only a user's object may lack it.
            return models.create(self.model, self.feature_dim)
        assert self.folder is not None  # A backbone with an experiment comes from a run.
        own = experiments.of_run(self.experiment, self.folder).model
        return models.from_object(own.backbone, feature_dim=own.feature_dim)


def read_run(folder: Path, step: int | None = None) -> SavedBackbone:
    """Reads the backbone of a run, without the parameters of the losses and the optimiser's state.

    Args:
      folder: the folder of a run, finished or not. Nothing in it is changed.
      step: step of the checkpoint; None takes the newest undamaged one.

    Raises:
      CorruptCheckpoint: a file of the checkpoint is missing, truncated or changed.
      InputError: there is no such checkpoint, an earlier version saved it, or it cannot be read at
        the moment.
    """
    checkpoints = Path(folder).absolute() / "checkpoints"
    return read_step(checkpoints, lambda chosen: _read(checkpoints, chosen), step)


def _read(checkpoints: Path, step: int) -> SavedBackbone:
    checkpoint = checkpoints / str(step)
    advice = " Take another step of the run."
    with reading(checkpoint, advice), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        meta = checkpointer.restore(checkpoint / "meta")
    # Such a checkpoint is not damaged, but without checksums we could not tell if it were.
    if "arrays" not in meta:
        raise InputError(
            f"{checkpoint}: expected a checkpoint with checksums, found one saved by an earlier "
            "version. Use it with that version."
        )
    with reading(checkpoint, advice):
        arrays = _backbone(checkpoint / "state", meta["arrays"])
    return SavedBackbone(
        arrays=arrays,
        model=meta["experiment"]["model"]["name"],
        feature_dim=meta["experiment"]["model"].get("feature_dim"),
        image_shape=tuple(meta["data"]["image_shape"]),
        experiment=meta["experiment"],
        step=step,
        init_from=meta.get("init_from"),
        folder=checkpoints.parent,
    )


def _backbone(state: Path, saved: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Reads the backbone's arrays by path from the state of a checkpoint, and checks them.

    Args:
      state: the folder of the state in the checkpoint.
      saved: array -> its facts in the checkpoint's metadata, of which "sum" is the checksum.

    Raises:
      Changed: an array has another checksum.
    """
    stored = saved_tree(state)
    with ocp.PyTreeCheckpointer() as checkpointer:
        held = {
            name: tree["backbone"]
            for name in ("params", "average", "batch_stats")
            if "backbone" in (tree := stored.get(name) or {})
        }
        # The run is scored with the moving average, so the parameters are not needed.
        if "average" in held:
            del held["params"]
        # Orbax restores the leaves that `item` names; their values do not matter.
        item = {name: {"backbone": jax.tree.map(lambda _: 0, tree)} for name, tree in held.items()}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        found = checkpointer.restore(
            state, args=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
        )
    for name, total in checksums(found).items():
        if total != saved[name]["sum"]:
            raise Changed(f"{name} changed")
    # A network expects its parameters under this name, averaged or not.
    named = {"average": "params"}
    trees = {named.get(name, name): tree["backbone"] for name, tree in found.items()}
    return cast(dict[str, np.ndarray], traverse_util.flatten_dict(trees, sep="/"))
