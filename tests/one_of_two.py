"""One of two processes that train together: its number, a port, folders, the experiment as JSON."""

import json
import sys
from pathlib import Path


def main(process: str, port: str, data_dir: str, workdir: str, experiment: str) -> None:
    from hyperface.train import distributed

    cluster = distributed.cluster_of(
        {}, coordinator=f"127.0.0.1:{port}", processes=2, process=int(process)
    )
    distributed.initialize(cluster)

    from test_sharded_step import Linear

    from hyperface import models
    from hyperface.train import loop
    from hyperface.train.experiment import Experiment

    models.create = lambda name, feature_dim, **_: Linear(feature_dim)
    loop.train(Experiment.from_dict(json.loads(experiment)), Path(data_dir), Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
