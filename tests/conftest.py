"""Strict numerics, eight CPU devices, and small data sets for every test."""

import contextlib
import ctypes
import gc
import itertools
import logging
import os
import shutil
import tempfile
from importlib import metadata

os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# A variable of its own: the machines of some accelerators set JAX_PLATFORMS for every program, and
# most tests need the eight devices. Empty, it lets JAX take the accelerator, for those that do not.
os.environ["JAX_PLATFORMS"] = os.environ.get("HYPERFACE_TEST_PLATFORMS", "cpu")
# Most of the tests' time is XLA compiling small programs, most of that LLVM optimising them. With
# XLA_FLAGS set to anything else, an empty text too, the tests run what users run.
# Up to JAX 0.10 the older emitters, and one LLVM module per program, compile small programs in a
# quarter of the time; later releases abort at a flag that they do not have.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if metadata.version("jaxlib").startswith("0.10.")
        else ""
    ),
)
# Runs that are repeated, resumed or started as a command compile the same programs again.
# Workers of pytest-xdist take over the environment, and so share one folder.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="hyperface-tests-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from PIL import Image

from hyperface.console import LOGGER, show_log

jax.config.update("jax_numpy_rank_promotion", "raise")

# On a busy machine time says nothing. The same examples each time: a failure comes again.
hypothesis.settings.register_profile(
    "repeated",
    deadline=None,
    derandomize=True,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("repeated")


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def pytest_collection_finish() -> None:
    # What is imported and collected by now stays. Tracing makes many objects and few cycles: with
    # Python's own thresholds the search for cycles takes a sixth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _programs_kept_for_some_tests():
    """The compiled programs of all tests together would take some gigabytes of each worker."""
    yield
    if next(_tests) % 40 == 0:
        jax.clear_caches()
        gc.collect()
        # The C library keeps the freed pages unless it is told. Only that of Linux can be told.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def _log_is_shown():
    """Tests call the commands' `main`, which `program.run` calls once the log is shown."""
    show_log()


@pytest.fixture
def logged():
    """Returns what the library has logged so far in the test."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    LOGGER.addHandler(handler)
    yield lambda: messages
    LOGGER.removeHandler(handler)


@pytest.fixture(autouse=True)
def _own_data_dir(tmp_path_factory, monkeypatch):
    """No test writes to the user's data folder by leaving out a path."""
    monkeypatch.setenv("HYPERFACE_DATA_DIR", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, for tests that read it; they skip where there is none."""
    folder = os.environ.get("HYPERFACE_DATA_DIR")
    if not folder:
        pytest.skip("HYPERFACE_DATA_DIR is unset: no real data")
    return Path(folder).resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def write_people(
    root: Path, people: int, images: int, shape: tuple[int, ...] = (16, 14, 3)
) -> Path:
    """A folder of identities: a random pattern a person, a little noise an image."""
    rng = np.random.default_rng(7)
    for person in range(people):
        folder = root / f"person{person}"
        folder.mkdir(parents=True)
        pattern = rng.integers(30, 225, shape)
        for image in range(images):
            pixels = np.clip(pattern + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.png")
    return root


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data folder with the data set tiny: 6 people to train, 4 to test, 8 images of each."""
    from hyperface.data import store
    from hyperface.data.planning import Options
    from hyperface.data.sources.trees import folder

    root = write_people(tmp_path_factory.mktemp("people"), people=10, images=8)
    data_dir = tmp_path_factory.mktemp("tiny")
    store.prepare(folder(root), data_dir / "tiny", Options(held_out=4))
    return data_dir


@pytest.fixture(scope="session")
def tiny_experiment():
    """A run of seconds on `tiny_data`, with a term of every kind and all that a state holds."""
    from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer, check
    from hyperface.config.loss import (
        BatchTripletTerm,
        CContrastiveTerm,
        CenterTerm,
        Loss,
        RingTerm,
        SoftmaxTerm,
    )

    return check(
        Experiment(
            name="tiny",
            steps=12,
            log_every=2,
            checkpoint_every=4,
            data=Data(name="tiny", batch_size=16, shift=1),
            model=Model(name="sphereface-mini", feature_dim=16),
            loss=Loss(
                softmax=SoftmaxTerm(dropout=0.1),
                c_contrastive=CContrastiveTerm(weight=0.01),
                center=CenterTerm(weight=0.001),
                triplet=BatchTripletTerm(weight=0.01),
                ring=RingTerm(weight=0.01),
            ),
            optimizer=Optimizer(learning_rate=0.02, boundaries=(6,), average=0.9),
            evaluation=Evaluation(batch_size=10, folds=4, snapshots=3, snapshot_every=4),
        )
    )


@pytest.fixture(scope="session")
def random_run(tiny_experiment, tmp_path_factory):
    """The folder and state of a run of `tiny_experiment` that nobody trained: random numbers."""
    import jax.numpy as jnp

    from hyperface.train.checkpoint.manager import Checkpoints
    from hyperface.train.state import abstract_state

    shape = (16, 14, 3)
    rng = np.random.default_rng(3)

    def drawn(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.asarray(rng.normal(0, 0.1, leaf.shape), leaf.dtype)

    state = jax.tree.map(drawn, abstract_state(tiny_experiment, 6, shape))
    meta = {
        "experiment": tiny_experiment.to_dict(),
        "data": {"classes": 6, "image_shape": list(shape)},
    }
    folder = tmp_path_factory.mktemp("random") / "run"
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(4, state, meta)
        checkpoints.save(8, state, meta)
    return folder, state
