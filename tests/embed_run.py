"""Features and figures of a run's newest checkpoint; one process of several."""

import json
from pathlib import Path

import numpy as np
from processes import join


def main() -> None:
    """Writes the features that this process came to, and prints what it scores."""
    process, _, (run, data_dir, out) = join()
    from hyperface.evaluate.embed import AllDevices
    from hyperface.evaluate.evaluator import evaluate_network
    from hyperface.runs.evaluate_own import restored
    from hyperface.train.checkpoint.manager import Checkpoints

    with Checkpoints(Path(run) / "checkpoints", read_only=True) as checkpoints:
        experiment, state = restored(checkpoints, checkpoints.latest())
    network, data_dir = (state.network, state.evaluated), Path(data_dir)
    result = evaluate_network(experiment, *network, data_dir, AllDevices())
    np.save(Path(out) / f"{process}.npy", result.embeddings.features)
    print("not scored" if result.verification is None else json.dumps(result.figures()))


if __name__ == "__main__":
    main()
