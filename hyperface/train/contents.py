"""What a checkpoint holds of a state, and what the arrays found in one must agree with."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from hyperface.errors import InputError
from hyperface.train.checksum import checksums, named_leaves
from hyperface.train.damage import Changed
from hyperface.train.state import TrainState


def contents(state: TrainState) -> dict[str, Any]:
    """Nested dictionaries of plain arrays: no class of a library is needed to read them."""
    return {
        "step": state.step,
        "params": state.params,
        "batch_stats": state.batch_stats,
        "opt_state": serialization.to_state_dict(state.opt_state),
        "key": _key_data(state.key),
        "distortion": state.distortion,
    } | ({} if state.average is None else {"average": state.average})


def with_contents(like: TrainState, found: dict[str, Any]) -> TrainState:
    """The state whose `contents` were found; static parts are those of `like`."""
    return like.replace(
        step=found["step"],
        params=found["params"],
        batch_stats=found["batch_stats"],
        opt_state=serialization.from_state_dict(like.opt_state, found["opt_state"]),
        key=jax.random.wrap_key_data(found["key"]),
        distortion=found["distortion"],
        average=found.get("average"),
        diverged=jax.device_put(np.zeros((), bool), found["step"].sharding),
    )


def _key_data(key: Any) -> Any:
    if isinstance(key, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, key).update(sharding=key.sharding)
    return jax.random.key_data(key)


def template(wanted: Any, sharding: jax.sharding.Sharding | TrainState) -> Any:
    """What Orbax shall make of the arrays.

    Args:
      wanted: the contents, or their shapes.
      sharding: one for all, or shapes that have theirs.
    """
    if isinstance(sharding, TrainState):
        return contents(sharding)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), wanted)


def described(arrays: Any) -> dict[str, dict[str, Any]]:
    """Kind and checksum of each array, which a restored one must have."""
    sums = checksums(arrays)
    leaves = named_leaves(arrays)
    return {name: {"kind": _kind(leaf), "sum": sums[name]} for name, leaf in leaves.items()}


def check_same(wanted: Any, saved: dict[str, dict[str, Any]], where: Path) -> None:
    """Refuses a checkpoint of another model.

    Args:
      wanted: the contents, or their shapes.
      saved: as `described` made it of the checkpoint's.
      where: the checkpoint, for the message.

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
    """Refuses arrays that are not as they were saved.

    Args:
      found: the `checksums` of the restored ones.
      saved: as `described` made it of the checkpoint's.

    Raises:
      Changed: naming some that changed.
    """
    changed = [name for name, total in found.items() if total != saved[name]["sum"]]
    if changed:
        more = ", ..." if len(changed) > 3 else ""
        raise Changed(f"{len(changed)} arrays changed, {', '.join(changed[:3])}{more}")


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
