"""Reads the backbone, and nothing else, from a checkpoint of a run."""

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
    """A trained backbone, and what its run or its file says of it."""

    arrays: dict[str, np.ndarray]
    """Arrays by path, such as "params/conv1/kernel", as the run is scored with them: the moving
    average of the parameters where it kept one."""
    model: str
    """Name of the network."""
    feature_dim: int | None
    """Length of the features; None if the network is an object, which has its own."""
    image_shape: tuple[int, int, int]
    experiment: dict[str, Any] | None = None
    """The run's experiment, as `Experiment.to_dict` made it; None for a weight file."""
    step: int | None = None
    """Step of the run's checkpoint."""
    init_from: str | None = None
    """What a fine-tuned run started from; for a weight file the file itself."""
    trained_on: str | None = None
    """The pixels that a weight file was trained on, if they are not this library's."""
    folder: Path | None = None
    """The folder of the run, with the copy of its experiment file if it has one."""

    def digest(self) -> str:
        """Returns sixteen hexadecimal digits of SHA-256 over the arrays and their names."""
        total = hashlib.sha256(self.model.encode())
        for name, array in sorted(self.arrays.items()):
            total.update(f"{name} {array.dtype} {array.shape};".encode())
            total.update(array.tobytes())
        return total.hexdigest()[:16]

    def network(self) -> nn.Module:
        """Returns the backbone as a module that computes in float32.

        Raises:
          InputError: it is an object, and the run's experiment file does not make it.
        """
        if self.experiment is None or "backbone" not in self.experiment["model"]:
            assert self.feature_dim is not None  # Only an object lacks it.
            return models.create(self.model, self.feature_dim)
        assert self.folder is not None  # Only a run has an experiment.
        own = experiments.of_run(self.experiment, self.folder).model
        return models.from_object(own.backbone, feature_dim=own.feature_dim)


def read_run(folder: Path, step: int | None = None) -> SavedBackbone:
    """Reads the backbone of a run; the heads and the optimiser stay on disk.

    Args:
      folder: a run, as hyperface train made it, finished or not; nothing in it is touched.
      step: which checkpoint; the newest whole one by default.

    Raises:
      CorruptCheckpoint: a file of the checkpoint is missing, cut short or changed.
      InputError: there is no such checkpoint, it is of an earlier version, or it cannot be read at
        the moment.
    """
    checkpoints = Path(folder).absolute() / "checkpoints"
    return read_step(checkpoints, lambda chosen: _read(checkpoints, chosen), step)


def _read(checkpoints: Path, step: int) -> SavedBackbone:
    checkpoint = checkpoints / str(step)
    advice = " Take another step of the run."
    with reading(checkpoint, advice), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        meta = checkpointer.restore(checkpoint / "meta")
    if "arrays" not in meta:  # Not damaged.
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
    stored = saved_tree(state)
    with ocp.PyTreeCheckpointer() as checkpointer:
        held = {
            name: tree["backbone"]
            for name in ("params", "average", "batch_stats")
            if "backbone" in (tree := stored.get(name) or {})
        }
        if "average" in held:
            del held["params"]
        item = {name: {"backbone": jax.tree.map(lambda _: 0, tree)} for name, tree in held.items()}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        found = checkpointer.restore(
            state, args=ocp.args.PyTreeRestore(item, restore_args, partial_restore=True)
        )
    for name, total in checksums(found).items():
        if total != saved[name]["sum"]:
            raise Changed(f"{name} changed")
    named = {"average": "params"}
    trees = {named.get(name, name): tree["backbone"] for name, tree in found.items()}
    return cast(dict[str, np.ndarray], traverse_util.flatten_dict(trees, sep="/"))
