"""One checkpoint's folder, as one process reads it."""

import contextlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from hyperface.errors import InputError
from hyperface.train.checksum import named_leaves
from hyperface.train.contents import check_same, template
from hyperface.train.damage import Changed, is_damage, is_whole, reading
from hyperface.train.state import TrainState


class Stored(NamedTuple):
    """What a step's folder holds: "state" and "meta".

    It is read by Orbax's handlers alone: its manager's restore waits for all processes, of which
    one may find damage alone.
    """

    folder: Path
    advice: str = ""
    """What is said after the message of damage."""

    @property
    def is_whole(self) -> bool:
        """Whether both parts are there."""
        return is_whole(self.folder)

    def meta(self) -> dict[str, Any]:
        """What the checkpoint says it is, with how its arrays are described.

        Raises:
          CorruptCheckpoint: it is missing, cut short or changed.
          InputError: it cannot be read for now, or is of an earlier version.
        """
        args, read = ocp.args.JsonRestore(), ocp.JsonCheckpointHandler().restore
        with self.reading():
            meta = read(self.folder / "meta", args=args)
            checksum = meta.pop("checksum", None)
            if checksum not in (None, meta_sum(meta)):
                raise Changed("meta changed")
        if checksum is None:  # Not damaged: nothing may set it aside.
            raise InputError(
                f"{self.folder}: expected a checkpoint with checksums, found one of an earlier "
                "version. Use it with that version, or pass --fresh to train again."
            )
        return meta

    def arrays(
        self, wanted: dict[str, Any], sharding: jax.sharding.Sharding | TrainState
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """How the arrays were described, and what this process reads of them.

        Args:
          wanted: what a state holds, by name.
          sharding: where they go.

        Raises:
          InputError: names, shapes or dtypes differ; or as of `meta`.
        """
        if not self.is_whole:
            raise InputError(
                f"{self.folder}: expected a whole checkpoint, found none. Of several processes all "
                "must see the run's folder."
            )
        described = self.meta()["arrays"]
        check_same(wanted, described, self.folder)
        args = ocp.args.StandardRestore(template(wanted, sharding), strict=False)
        read = ocp.StandardCheckpointHandler().restore
        with self.reading():
            try:
                return described, read(self.folder / "state", args=args)
            except (AttributeError, ValueError) as error:
                if not is_damage(error) and self._names_changed(wanted):
                    raise Changed("Orbax's metadata changed") from None
                raise

    def _names_changed(self, wanted: dict[str, Any]) -> bool:
        """Whether Orbax's files have some of the names and not all: it does not look at that.

        A file in which none is found is of another version of Orbax.
        """
        leaves = {tuple(name.split("/")) for name in named_leaves(wanted)}
        nodes = {*leaves, *_empty_nodes(wanted)}
        state = self.folder / "state"
        lists = [(nodes, _tree_names(state / "_METADATA"))]
        files = sorted((state / "array_metadatas").glob("process_*"))
        if files:
            found = frozenset().union(*map(_array_names, files))
            lists.append(({".".join(name) for name in leaves}, found))
        return any(not known <= found and known & found for known, found in lists)

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """As `damage.reading`, of this folder."""
        return reading(self.folder, self.advice)


def _empty_nodes(tree: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, inner in tree.items():
        if inner is None or inner == {}:
            yield (*above, name)
        elif isinstance(inner, dict):
            yield from _empty_nodes(inner, (*above, name))


def _tree_names(path: Path) -> set[tuple[str, ...]]:
    entries = json.loads(path.read_text())["tree_metadata"].values()
    return {tuple(key.get("key") for key in entry["key_metadata"]) for entry in entries}


def _array_names(path: Path) -> set[str]:
    entries = json.loads(path.read_text())["array_metadatas"]
    return {entry.get("array_metadata", {}).get("param_name") for entry in entries}


def meta_sum(meta: dict[str, Any]) -> int:
    """The checksum of what a checkpoint says."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
