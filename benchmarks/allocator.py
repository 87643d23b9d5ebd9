"""Measures how much faster a training step is on a CPU if freed memory is kept for the next step.

    python benchmarks/allocator.py
    python benchmarks/allocator.py --models sphereface-mini wen28 --batch 32

The commands keep freed memory if JAX has only the CPU, by
`hyperface.runs.process_settings.keep_memory`. Processes without and with this setting take turns.
The table has a row per quantity, with the medians over the rounds without and with the setting:

- "step": images per second of a training step.
- "embedding": images per second of computing features.
- "faults": pages that the kernel maps per step.
- "MiB": the largest size of the process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np
from loader import make_faces, prepare_rate, step_rate

from hyperface import models
from hyperface.data.datasets import open_split
from hyperface.evaluate.embed import embedder


def measure(data_dir: Path, model: str, batch: int, steps: int) -> dict[str, float]:
    """Returns quantity -> value, as the module describes them, measured in this process.

    Args:
      data_dir: folder of the prepared data set "faces".
      model: name of the backbone.
      batch: images per step.
      steps: number of steps that are measured.
    """
    split = open_split("faces", "train", data_dir)
    step_rate(split, model, batch, 1)  # Compiles.
    # Minor faults: the kernel maps a page, and clears it first.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rate = step_rate(split, model, batch, steps)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    images = np.random.default_rng(0).normal(size=(batch, *split.image_shape)).astype(np.float32)
    network = models.create(model, 128)
    embed = embedder(network.apply, "none")
    variables = network.init(jax.random.key(0), images[:1])
    jax.block_until_ready(embed(variables, images))
    began = time.perf_counter()
    for _ in range(steps):
        jax.block_until_ready(embed(variables, images))
    return {
        "step": rate,
        "embedding": steps * batch / (time.perf_counter() - began),
        "faults": faults / steps,
        "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measures the step and the memory with and without the allocator's settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["sphereface-mini", "sphereface-20"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "KEEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = measure(Path(options.child[0]), options.models[0], options.batch, options.steps)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = Path(scratch) / "data"
        prepare_rate(make_faces(Path(scratch) / "root", 20, 20), data_dir)
        for model in options.models:
            found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
            for _ in range(options.rounds):
                # A process per measurement, since the setting cannot be taken back, and the peak of
                # memory is that of the whole process.
                for keeps, records in found.items():
                    setting = "from hyperface.runs import process_settings as s; s.keep_memory(); "
                    code = setting if keeps else ""
                    code += "import allocator; allocator.main()"
                    words = ["--child", str(data_dir), str(keeps), "--models", model]
                    words += ["--batch", str(options.batch), "--steps", str(options.steps)]
                    child = subprocess.run(
                        [sys.executable, "-c", code, *words],
                        cwd=Path(__file__).parent,
                        check=True,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    records.append(json.loads(child.stdout.splitlines()[-1]))
            for name in found[True][0]:
                without, with_it = (median(one[name] for one in found[k]) for k in (False, True))
                figures = f"{without:12.1f}{with_it:12.1f}{with_it / without:8.2f} x"
                print(f"{model:18}{name:12}{figures}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
