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
from hyperface.train.contents import check_same, template
from hyperface.train.damage import (
    Changed,
    CorruptCheckpoint,
    UnreadableCheckpoint,
    is_damage,
    reason,
)
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
        return all((self.folder / item).is_dir() for item in ("state", "meta"))

    def meta(self) -> dict[str, Any]:
        """What the checkpoint says it is, with how its arrays are described.

        Raises:
          CorruptCheckpoint: it is missing, cut short or changed.
          InputError: it cannot be read for now, or is of an earlier version.
        """
        with self.reading():
            read = ocp.JsonCheckpointHandler().restore
            meta = read(self.folder / "meta", args=ocp.args.JsonRestore())
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
        with self.reading():
            args = ocp.args.StandardRestore(template(wanted, sharding), strict=False)
            read = ocp.StandardCheckpointHandler().restore
            return described, read(self.folder / "state", args=args)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A damaged checkpoint fails in Orbax, TensorStore or json, each in its own way."""
        try:
            yield
        except Exception as error:
            if is_damage(error):
                raise CorruptCheckpoint(
                    f"{self.folder}: expected a whole checkpoint, found a damaged one "
                    f"({reason(error)}).{self.advice}"
                ) from error
            raise UnreadableCheckpoint(
                f"{self.folder}: expected to read it, found: {reason(error)}. Nothing was set "
                "aside; mend that, and the same command goes on from there."
            ) from error


def meta_sum(meta: dict[str, Any]) -> int:
    """The checksum of what a checkpoint says."""
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())
