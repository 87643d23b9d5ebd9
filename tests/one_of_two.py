"""One of two processes that train together: told folders and the experiment as JSON."""

import json
from pathlib import Path

from processes import join


def main() -> None:
    """Trains with the least backbone; says so where a signal stopped it."""
    process, _, (data_dir, workdir, experiment) = join()
    from test_sharded_step import Linear

    from hyperface import models
    from hyperface.config.experiment import Experiment
    from hyperface.console import show_log
    from hyperface.train import loop
    from hyperface.train.interrupt import Interrupted

    if process == 0:
        show_log()
    models.create = lambda name, feature_dim, **_: Linear(feature_dim)
    experiment = Experiment.from_dict(json.loads(experiment))
    try:
        loop.train(experiment, Path(data_dir), Path(workdir))
    except Interrupted as stop:
        print(stop, flush=True)


if __name__ == "__main__":
    main()
