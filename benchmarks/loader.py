"""Measures how fast images are loaded, and how fast a training step uses them.

    python benchmarks/loader.py                        made-up faces, 112 x 96 JPEG
    python benchmarks/loader.py --data faces --data-dir DIR

All values are images per second:

- "prepare": reading a folder, checking the images, and storing them as a data set.
- "step": training steps of `--model` on this machine.
- "loader": the training pipeline alone, which decodes, flips and shifts images. It runs with
  threads, with worker processes, and with images that an earlier epoch has decoded ("kept").

A loader that is several times faster than the step keeps the device busy.
"""

import argparse
import io
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make_faces(root: Path, people: int, images: int) -> Path:
    """Writes smooth random patterns as JPEG files of 4 kB, the usual size of aligned faces.

    Args:
      root: folder to write, with one folder per person.
      people: number of people.
      images: number of images per person.

    Returns:
      The folder.
    """
    rng = np.random.default_rng(0)
    for person in range(people):
        folder = root / f"{person:04}"
        folder.mkdir(parents=True)
        for image in range(images):
            # Enlarged from few pixels: JPEG would compress independent pixels much worse.
            coarse = rng.integers(0, 256, (14, 12, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((96, 112), Image.Resampling.BICUBIC)
            out = io.BytesIO()
            picture.save(out, "JPEG", quality=95)
            (folder / f"{image}.jpg").write_bytes(out.getvalue())
    return root


def prepare_rate(root: Path, data_dir: Path) -> float:
    """Prepares the data set "faces" from a folder, and returns the images per second.

    Args:
      root: the folder of images.
      data_dir: folder of prepared data sets.
    """
    from hyperface.data import store
    from hyperface.data.manifest import Manifest
    from hyperface.data.sources import open_source

    began = time.perf_counter()
    folder = store.prepare(open_source(str(root), data_dir), data_dir / "faces")
    return sum(Manifest.read(folder).images.values()) / (time.perf_counter() - began)


def loader_rate(split, batch: int, seconds: float, workers: int, kept: bool) -> float:
    """Returns the images per second of the training pipeline alone, without its start.

    Args:
      split: the prepared split.
      batch: images per batch.
      seconds: how long it is measured.
      workers: number of processes that read images; 0 uses threads.
      kept: whether decoded images are kept in memory; a first epoch then fills it, unmeasured.
    """
    from hyperface.data import pipeline

    # The pipeline's limit in bytes of images that it keeps decoded.
    pipeline.KEPT = sys.maxsize if kept else 0
    batches = pipeline.training_batches(split, batch_size=batch, seed=0, shift=4, workers=workers)
    # One epoch, rounded up to whole batches; or some batches until all threads are busy.
    for _ in range(-(-len(split.records) // batch) if kept else 10):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(batches)
        count += 1
    rate = count * batch / (time.perf_counter() - began)
    # Ends the worker processes, which would disturb the next measurement.
    if workers:
        batches.close()
    return rate


def step_rate(split, model: str, batch: int, steps: int) -> float:
    """Returns the images per second of a training step, always on the same batch.

    Args:
      split: the prepared split.
      model: name of the backbone.
      batch: images per step.
      steps: number of steps that are measured.
    """
    import jax

    from hyperface.config.experiment import Data, Experiment, Model
    from hyperface.config.loss import Loss
    from hyperface.data.pipeline import training_batches
    from hyperface.devices import mesh
    from hyperface.train import parallel
    from hyperface.train.state import create_state

    experiment = Experiment(
        name="loader",
        steps=steps,
        data=Data(batch_size=batch),
        model=Model(name=model),
        loss=Loss(),
    )
    data = next(training_batches(split, batch_size=batch, seed=0))
    state = create_state(experiment, split.num_classes, data["images"], data["labels"])
    state = jax.device_put(state, mesh.replicated())
    step = parallel.data_parallel_step()
    # The first step compiles, and is not measured.
    state, metrics = step(state, data)
    jax.block_until_ready(metrics)
    began = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, data)
        jax.block_until_ready(metrics)
    return steps * batch / (time.perf_counter() - began)


def main() -> None:
    """Parses the options and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a prepared data set, instead of made-up faces")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--model", default="sphereface-20")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    from hyperface.data.datasets import data_directory, open_split

    with tempfile.TemporaryDirectory() as scratch:
        if options.data:
            data_dir = data_directory(options.data_dir)
        else:
            root = make_faces(Path(scratch) / "root", options.people, options.images)
            data_dir = Path(scratch) / "data"
            rate = prepare_rate(root, data_dir)
            print(f"{'prepare':28}{rate:10.0f} images a second")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{'the process at its largest':28}{peak:10.0f} MiB", flush=True)
        split = open_split(options.data or "faces", "train", data_dir)
        step = step_rate(split, options.model, options.batch, options.steps)
        print(f"{f'step of {options.model}':28}{step:10.0f} images a second", flush=True)
        for workers, kept in ((0, False), (0, True), (options.workers, False)):
            rate = loader_rate(split, options.batch, options.seconds, workers, kept)
            by = f"{workers} processes" if workers else "threads"
            name = f"loader, {by}{', kept' if kept else ''}"
            line = f"{name:28}{rate:10.0f} images a second, {rate / step:.1f} x the step"
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
