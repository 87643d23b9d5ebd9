"""Reads the folder of one checkpoint in one process, and describes the state that it contains."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from hyperface.errors import InputError
from hyperface.orbax_layout import recorded_arrays
from hyperface.train.checkpoint.integrity import (
    Changed,
    checksums,
    is_damage,
    is_whole,
    named_leaves,
    reading,
    saved_tree,
)
from hyperface.train.state import TrainState


class Stored(NamedTuple):
    """The folder of one checkpoint, with functions that read its parts "state" and "meta".

    The functions read by Orbax's handlers, and not by Orbax's manager. The manager's restore waits
    for all processes, and would wait forever if only one process finds damage.
    """

    folder: Path
    """The folder, whose name is the step."""
    advice: str = ""
    """Last sentence of the message about a damaged checkpoint, which says what the user can do; ""
    adds none."""

    @property
    def is_whole(self) -> bool:
        """Returns whether both parts of the checkpoint, "state" and "meta", are there."""
        return is_whole(self.folder)

    def meta(self) -> dict[str, Any]:
        """Returns the description of the checkpoint, JSON values by name.

        It contains the experiment, its data, and the metrics since the last line of the log. The
        entry "arrays" describes each array: path -> {"kind": dtype and shape, "sum": checksum}.

        Raises:
          CorruptCheckpoint: the description is missing, cut short or changed.
          InputError: the description cannot be read at the moment, or an earlier version wrote it.
        """
        args, read = ocp.args.JsonRestore(), _restore_of(ocp.JsonCheckpointHandler())
        with self.reading():
            meta: dict[str, Any] = read(self.folder / "meta", args=args)
            # The checksum covers all fields except itself.
            checksum = meta.pop("checksum", None)
            if checksum not in (None, meta_sum(meta)):
                raise Changed("meta changed")
        # No damage: the checkpoint must not be renamed, so this error is raised outside of
        # `reading`.
        if checksum is None:
            raise InputError(
                f"{self.folder}: expected a checkpoint with checksums, found one of an earlier "
                "version. Use it with that version, or pass --fresh to train again."
            )
        return meta

    def arrays(
        self, wanted: dict[str, Any], sharding: jax.sharding.Sharding | TrainState
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Reads the arrays of the state that this process needs.

        Args:
          wanted: the expected contents of the state, as `contents` returns them, or their shapes.
          sharding: one sharding for all arrays, or a state with a `jax.ShapeDtypeStruct` and its
            sharding in place of each array.

        Returns:
          (description, arrays). The description has for each path {"kind": dtype and shape, "sum":
          checksum} from the time of saving. The arrays are nested dictionaries, as in `wanted`;
          their checksums are not compared here.

        Raises:
          CorruptCheckpoint: a file is missing, cut short or changed.
          InputError: names, shapes or dtypes differ, the checkpoint is incomplete, it cannot be
            read at the moment, or an earlier version wrote it.
        """
        if not self.is_whole:
            raise InputError(
                f"{self.folder}: expected a whole checkpoint, found none. Of several processes all "
                "must see the run's folder."
            )
        described = self.meta()["arrays"]
        # Checked before the arrays are read, because Orbax would cast another dtype silently.
        check_same(wanted, described, self.folder)
        # Not strict, because padding gives the template more rows than were saved.
        args = ocp.args.StandardRestore(template(wanted, sharding), strict=False)
        read = _restore_of(ocp.StandardCheckpointHandler())
        with self.reading():
            try:
                return described, read(self.folder / "state", args=args)
            except Exception as error:
                failed = error
            # Outside of the handler, because an error raised inside would get this one as its
            # context, and `is_damage` examines contexts too.
            if not is_damage(failed) and self._is_metadata_changed(wanted):
                raise Changed("Orbax's metadata changed")
            raise failed

    def _is_metadata_changed(self, wanted: dict[str, Any]) -> bool:
        """Returns whether Orbax's own metadata of the state is damaged.

        It is damaged if it cannot be parsed, or if it has only some of the expected names, which
        Orbax does not check. If it has none of them, another version of Orbax wrote it.

        Args:
          wanted: the expected contents of the state.
        """
        state = self.folder / "state"
        try:
            tree = saved_tree(state)
        except (OSError, ValueError) as error:  # A failing disk raises these errors too.
            return is_damage(error)
        try:
            recorded = recorded_arrays(state)
        # A file that cannot be parsed was changed.
        except ValueError:
            return True
        leaves, nodes = _names(wanted)
        _, listed = _names(tree)
        lists = [(nodes, listed), ({".".join(name) for name in leaves}, recorded)]
        return any(not known <= found and known & found for known, found in lists)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context manager for reading this folder.

        It converts any error of Orbax, TensorStore and json to a CorruptCheckpoint or an
        UnreadableCheckpoint.
        """
        return reading(self.folder, self.advice)


def _restore_of(handler: ocp.CheckpointHandler) -> Callable[..., Any]:
    """Returns the handler's `restore`, which takes a `pathlib.Path` despite its annotation."""
    return cast(Callable[..., Any], handler.restore)


def _names(tree: dict[str, Any]) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Returns (leaves, nodes): the paths of a tree's leaves, and of its leaves and empty nodes."""
    leaves = {tuple(name.split("/")) for name in named_leaves(tree)}
    return leaves, {*leaves, *_empty_nodes(tree)}


def _empty_nodes(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the paths of the entries of a tree that are None or {}; `above` is its own path."""
    for name, inner in tree.items():
        if inner is None or inner == {}:
            yield (*above, name)
        elif isinstance(inner, dict):
            yield from _empty_nodes(inner, (*above, name))


def meta_sum(meta: dict[str, Any]) -> int:
    """Returns the checksum (CRC) of a checkpoint's description, without its entry "checksum"."""
    # Sorted, because the order of the fields has no meaning and may differ after reading.
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def contents(state: TrainState) -> dict[str, Any]:
    """Returns the arrays of a state as nested dictionaries, the form in which they are saved.

    They can be read without Optax or Flax. Values that are not saved, such as `diverged`, are left
    out.
    """
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        # Plain dictionaries in place of optax's classes, which a reader may not have installed.
        "opt_state": serialization.to_state_dict(state.opt_state),
        # Orbax stores plain arrays only, and a typed key is none.
        "key": _key_data(state.key),
        "distortion": state.distortion,
    } | ({} if state.average is None else {"average": state.average})


def with_contents(like: TrainState, found: dict[str, Any]) -> TrainState:
    """Returns a state with restored arrays; the inverse of `contents`.

    Args:
      like: a state, or its shapes, from which parts that are no arrays are taken.
      found: the restored arrays, nested dictionaries as `contents` returns them.
    """
    return like.replace(
        step=found["step"],
        params=found["params"],
        batch_stats=found["batch_stats"],
        opt_state=serialization.from_state_dict(like.opt_state, found["opt_state"]),
        key=jax.random.wrap_key_data(found["key"]),
        distortion=found["distortion"],
        average=found.get("average"),
        # Not saved. It gets the sharding of "step", so that the train step is not compiled twice.
        diverged=jax.device_put(np.zeros((), bool), found["step"].sharding),
    )


def _key_data(key: Any) -> Any:
    """Returns the numbers of a random key, or their shape for the shape of a key."""
    if isinstance(key, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, key).update(sharding=key.sharding)
    return jax.random.key_data(key)


def template(wanted: Any, sharding: jax.sharding.Sharding | TrainState) -> Any:
    """Returns `jax.ShapeDtypeStruct`s with shardings, which tell Orbax how to restore the arrays.

    Args:
      wanted: the expected contents of the state, as `contents` returns them, or their shapes.
      sharding: the sharding of all arrays, or a state with a `jax.ShapeDtypeStruct` and its
        sharding in place of each array.
    """
    if isinstance(sharding, TrainState):
        return contents(sharding)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted)


def described(arrays: Any) -> dict[str, dict[str, Any]]:
    """Returns the description of each array by its path, such as "params/head/scale".

    A description is {"kind": dtype and shape as text, "sum": checksum}. A checkpoint contains the
    descriptions, so that restored arrays can be compared with the saved ones.
    """
    sums = checksums(arrays)
    leaves = named_leaves(arrays)
    return {name: {"kind": _kind(leaf), "sum": sums[name]} for name, leaf in leaves.items()}


def check_same(wanted: Any, saved: dict[str, dict[str, Any]], where: Path) -> None:
    """Raises an error if a checkpoint belongs to another model.

    Args:
      wanted: the expected contents of the state, as `contents` returns them, or their shapes.
      saved: the description of the checkpoint's arrays, as `described` returned it: path ->
        {"kind": dtype and shape, "sum": checksum}.
      where: path of the checkpoint, for the message.

    Raises:
      InputError: names, shapes or dtypes differ.
    """
    wanted = {name: _kind(leaf) for name, leaf in named_leaves(wanted).items()}
    found = {name: array["kind"] for name, array in saved.items()}
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


def check_sums(found: dict[str, int], saved: dict[str, dict[str, Any]]) -> None:
    """Raises an error if restored arrays differ from the saved arrays.

    Args:
      found: path -> checksum of each restored array, as `checksums` returns them.
      saved: the description of the checkpoint's arrays, as `described` returned it: path ->
        {"kind": dtype and shape, "sum": checksum}.

    Raises:
      Changed: an array differs. The message names some of the arrays that changed.
    """
    changed = [name for name, total in found.items() if total != saved[name]["sum"]]
    if changed:
        more = ", ..." if len(changed) > 3 else ""
        raise Changed(f"{len(changed)} arrays changed, {', '.join(changed[:3])}{more}")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
