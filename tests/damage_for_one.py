"""One of two processes, the second of which cannot read checkpoint 8; prints what restores."""

import json
from pathlib import Path

from loss_curves import first_state
from processes import join

FAULTS = {
    "damage": ValueError('DATA_LOSS: Error reading "d/0": checksum does not match'),
    "disk": OSError(5, "Input/output error"),
}


def main() -> None:
    """Restores as a run that goes on; both must come to the same end."""
    process, _, (folder, fault) = join()
    import jax
    import orbax.checkpoint as ocp

    from hyperface.errors import InputError
    from hyperface.train import parallel
    from hyperface.train.checkpoint.manager import Checkpoints

    read = ocp.StandardCheckpointHandler.restore

    def failing(self, directory, **args):
        if process == 1 and directory.parent.name == "8":
            raise FAULTS[fault]
        return read(self, directory, **args)

    ocp.StandardCheckpointHandler.restore = failing
    like = jax.eval_shape(lambda: first_state("center"))
    shapes = parallel.shapes_on_mesh(like, split_classes=True)
    try:
        with Checkpoints(Path(folder)) as checkpoints:
            step, _ = checkpoints.restore_newest(like, shapes)
        print(json.dumps(step))
    except InputError as error:
        print(json.dumps(str(error)))


if __name__ == "__main__":
    main()
