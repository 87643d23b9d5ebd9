"""Orbax checkpoints of a whole run: everything that the next step depends on, and what it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint import checkpoint_managers as policies

from hyperface.errors import InputError
from hyperface.train.state import TrainState

KEEP = 2


class Checkpoints:
    """The checkpoints of one run, in a folder of their own; use as a context manager.

    Each holds "state" (parameters, optimiser, random key, step, moving averages) and "meta" (the
    experiment and the data it was made with). Saving is asynchronous and atomic: a killed save
    leaves the previous checkpoint as the newest.

    Args:
      folder: the checkpoints' own folder.
      read_only: for a reader beside a running trainer: nothing in the folder is touched.
      keep: steps whose checkpoints stay; of others only the newest two do.
    """

    def __init__(self, folder: Path, *, read_only: bool = False, keep: Sequence[int] = ()):
        self._folder = folder.absolute()
        if not read_only:
            self._set_broken_steps_aside()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else _preserving(keep),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, rising."""
        return sorted(s for s in self._manager.all_steps() if _is_whole(self._folder / str(s)))

    def latest(self) -> int | None:
        """The newest whole checkpoint's step; None where there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Saves after `step` optimiser steps; returns once the state is copied off the devices."""
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_saved(state)), meta=ocp.args.JsonSave(meta)
            ),
        )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}")

    def meta(self, step: int) -> dict[str, Any]:
        """What the checkpoint says it is."""
        return self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta

    def restore(self, step: int, like: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
        """The state saved at `step`.

        Args:
          step: one of this folder's.
          like: a state, or its shapes, of the run that continues; its static parts are kept.
          sharding: where the arrays go; the checkpoint may come from other devices.

        Raises:
          InputError: names, shapes or dtypes differ: the checkpoint is of another model. Orbax
            alone would cast a dtype silently.
        """
        wanted = _saved(like)
        _check_same(wanted, self._manager.item_metadata(step)["state"], self._folder / str(step))
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted
        )
        saved = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template))
        ).state
        return like.replace(
            step=saved["step"],
            params=saved["params"],
            batch_stats=saved["batch_stats"],
            opt_state=serialization.from_state_dict(like.opt_state, saved["opt_state"]),
            key=jax.random.wrap_key_data(saved["key"]),
            distortion=saved["distortion"],
            average=saved.get("average"),
        )

    def _set_broken_steps_aside(self) -> None:
        """Renames step folders without content, which would pass for the newest checkpoint."""
        for path in self._folder.glob("[0-9]*"):
            if path.name.isdigit() and not _is_whole(path):
                path.rename(path.with_name(f"broken-{path.name}"))


def _preserving(steps: Sequence[int]) -> policies.PreservationPolicy:
    return policies.AnyPreservationPolicy([policies.LatestN(KEEP), policies.CustomSteps(steps)])


def _is_whole(folder: Path) -> bool:
    return all((folder / item).is_dir() for item in ("state", "meta"))


def _saved(state: TrainState) -> dict[str, Any]:
    """Nested dictionaries of plain arrays: no class of a library is needed to read them."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": serialization.to_state_dict(state.opt_state),
        "key": jax.eval_shape(jax.random.key_data, state.key)
        if isinstance(state.key, jax.ShapeDtypeStruct)
        else jax.random.key_data(state.key),
        "distortion": state.distortion,
    } | ({} if state.average is None else {"average": state.average})


def _check_same(wanted: Any, found: Any, where: Path) -> None:
    def leaves(tree):
        flat = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {
            "/".join(str(k.key) for k in path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in flat
        }

    wanted, found = leaves(wanted), leaves(found)
    if wanted == found:
        return
    differing = [
        f"{name} expected {wanted.get(name, 'absent')}, found {found.get(name, 'absent')}"
        for name in sorted(wanted.keys() | found.keys(), key=lambda n: (not n.startswith("p"), n))
        if wanted.get(name) != found.get(name)
    ]
    raise InputError(
        f"the checkpoint {where} is of another model: {len(differing)} arrays differ: "
        f"{'; '.join(differing[:4])}{'; ...' if len(differing) > 4 else ''}."
    )
