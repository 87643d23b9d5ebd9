"""Steps from a checkpoint that other devices have written; as a program, one process of several."""

import json
from pathlib import Path

from loss_curves import BATCH, batches, first_state
from processes import join

LOSS = "center"
"""Agents and centers."""
SAVED, STEPS = 2, 5
"""The step that is saved first, and the last one."""


def go_on(folder: Path, split: bool, devices=None, process: int = 0, processes: int = 1):
    """The newest checkpoint's state on these devices, then its remaining steps' losses."""
    import jax
    import jax.numpy as jnp

    from hyperface.train import parallel
    from hyperface.train.checkpoint.manager import Checkpoints

    like = jax.eval_shape(lambda: first_state(LOSS))
    shapes = parallel.shapes_on_mesh(like, split_classes=split, devices=devices)
    with Checkpoints(folder) as checkpoints:
        first, state = checkpoints.restore_newest(like, shapes)
    assert not list(folder.glob("broken-*"))
    restored = state = parallel.with_padding_unseen(state)
    state = jax.tree.map(jnp.copy, state)  # The steps take their state's memory.
    step = parallel.mesh_step(devices, split_classes=split)
    share = slice(BATCH // processes * process, BATCH // processes * (process + 1))
    losses = []
    for batch in batches(STEPS)[first:]:
        state, metrics = step(state, {name: x[share] for name, x in batch.items()})
        losses.append(float(metrics["loss"]))
    return restored, state, losses


def main() -> None:
    """Saves the last step in the same folder and prints the losses."""
    process, processes, (folder, layout) = join()
    from hyperface.train import parallel
    from hyperface.train.checkpoint.manager import Checkpoints

    _, state, losses = go_on(Path(folder), layout == "split", None, process, processes)
    with Checkpoints(Path(folder)) as checkpoints:
        checkpoints.save(STEPS, parallel.whole_classes(state), {})
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
