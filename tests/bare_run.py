"""A run without scores or reports, of the least backbone: told the data folder, the experiment."""

import json
from pathlib import Path

from hyperface.runs import program


def main(args: list[str]) -> None:
    """Trains in the folder after --workdir."""
    data_dir, experiment, _, workdir = args
    from test_sharded_step import Linear

    from hyperface import models
    from hyperface.config.experiment import Experiment
    from hyperface.train import loop

    program.quiet_libraries()
    models.create = lambda name, feature_dim, **_: Linear(feature_dim)
    loop.train(Experiment.from_dict(json.loads(experiment)), Path(data_dir), Path(workdir))


if __name__ == "__main__":
    program.run(main)
