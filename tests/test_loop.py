"""Runs: interrupted equals uninterrupted, a diverged one stops, a foreign folder is refused."""

import contextlib
import dataclasses
import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from rich.console import Console

from hyperface import owned
from hyperface.config.experiment import Evaluation, Model, Optimizer
from hyperface.devices import mesh
from hyperface.errors import InputError
from hyperface.train import divergence, interrupt, loop, parallel
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.divergence import DivergenceError, check_finite
from hyperface.train.interrupt import Interrupted, listening
from hyperface.train.logs import MetricsLog, TrainingProgress, read_metrics
from hyperface.train.run_folder import locked_run_folder
from hyperface.train.state import abstract_state


@pytest.fixture(scope="module")
def finished(tiny_experiment, tiny_data, tmp_path_factory):
    """An unbroken run: its folder and final state."""
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, loop.train(tiny_experiment, tiny_data, folder)


def scores(folder):
    """The best step, and the score of each checkpoint."""
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        steps = checkpoints.steps()
        return checkpoints.best(), {step: checkpoints.meta(step).get("score") for step in steps}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("killed_at", [3, 6, 9])
def test_an_interrupted_run_equals_an_unbroken_one(
    killed_at, finished, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    unbroken, expected = finished
    real, calls = parallel.data_parallel_step, iter(range(1000))

    def dying_step():
        step = real()

        def run(state, batch):
            if next(calls) == killed_at:
                raise Killed
            return step(state, batch)

        return run

    monkeypatch.setattr(parallel, "data_parallel_step", dying_step)
    with pytest.raises(Killed):
        loop.train(tiny_experiment, tiny_data, tmp_path)
    found = loop.train(tiny_experiment, tiny_data, tmp_path)
    chex.assert_trees_all_equal(found.params, expected.params)
    chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
    chex.assert_trees_all_equal(found.average, expected.average)
    np.testing.assert_array_equal(found.distortion, expected.distortion)
    np.testing.assert_array_equal(jax.random.key_data(found.key), jax.random.key_data(expected.key))
    assert (tmp_path / "metrics.jsonl").read_text() == (unbroken / "metrics.jsonl").read_text()
    assert scores(tmp_path) == scores(unbroken)


class Acting:
    """A `data_parallel_step` that does something before one of its steps."""

    def __init__(self, step, act, then=None):
        self._real, self._step, self._act = then or parallel.data_parallel_step, step, act

    def __call__(self, **keywords):
        step = self._real(**keywords)

        def run(state, batch):
            if int(state.step) + 1 == self._step:
                batch = self._act(batch) or batch
            return step(state, batch)

        return run


@pytest.mark.parametrize(("name", "stopped_at"), [("SIGTERM", 7), ("SIGINT", 3)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_numbers(
    name, stopped_at, finished, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    """Between two log lines too: what the log and the score have summed up is saved."""
    number, before = signal.Signals[name], [signal.getsignal(s) for s in signal.Signals]
    ask = Acting(stopped_at, lambda batch: os.kill(os.getpid(), number))
    monkeypatch.setattr(parallel, "data_parallel_step", ask)
    with pytest.raises(Interrupted, match=f"{name}: step {stopped_at} is saved. The same command"):
        loop.train(tiny_experiment, tiny_data, tmp_path)
    assert [signal.getsignal(s) for s in signal.Signals] == before
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() == stopped_at
    monkeypatch.undo()
    found = loop.train(tiny_experiment, tiny_data, tmp_path)
    chex.assert_trees_all_equal(found.params, finished[1].params)
    assert (tmp_path / "metrics.jsonl").read_text() == (finished[0] / "metrics.jsonl").read_text()
    assert None not in scores(tmp_path)[1].values()
    assert scores(tmp_path) == scores(finished[0])


def test_a_score_is_over_whole_intervals_though_snapshots_are_saved_between(
    tiny_experiment, tiny_data, tmp_path
):
    some = dataclasses.replace(tiny_experiment.evaluation, snapshots=5, snapshot_every=2)
    run = dataclasses.replace(tiny_experiment, log_every=1, evaluation=some)
    loop.train(run, tiny_data, tmp_path)
    losses = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    means = {last: np.mean(losses[last - 4 : last]) for last in (4, 8, 12)}
    best, found = scores(tmp_path)
    assert found == {step: pytest.approx(means[step]) if step in means else None for step in found}
    assert best == min(means, key=means.get)
    assert {4, 6, 8, 10, 12} == set(found)


def test_the_second_interrupt_is_immediate_but_not_the_same_one_twice(monkeypatch):
    """A signal may reach another thread first, so its handler runs a little later."""
    monkeypatch.setattr(interrupt, "AGAIN", 0.5)
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), listening() as request:  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            until = time.monotonic() + 10
            while request.reached(1) is None and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
            assert request.reached(1) == "SIGINT"
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, own)


def test_several_processes_ask_jax_and_install_nothing(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    ask = "reached_preemption_sync_point"
    monkeypatch.setattr(multihost_utils, ask, lambda step: step == 5)
    before = signal.getsignal(signal.SIGTERM)
    with listening() as request:
        assert signal.getsignal(signal.SIGTERM) is before
        assert [request.reached(step) for step in (4, 5)] == [None, "SIGTERM"]


def test_two_runs_into_one_folder_are_kept_apart(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    def second(batch):
        with pytest.raises(InputError, match=r"is being trained in by process \d+ on .* Wait for"):
            loop.train(tiny_experiment, tiny_data, tmp_path, fresh=True)
        raise Killed

    monkeypatch.setattr(parallel, "data_parallel_step", Acting(1, second))
    with pytest.raises(Killed):
        loop.train(tiny_experiment, tiny_data, tmp_path)


def test_a_damaged_checkpoint_costs_its_steps_only(
    finished, tiny_experiment, tiny_data, tmp_path, logged
):
    shutil.copytree(finished[0], tmp_path / "run")
    data = max((tmp_path / "run/checkpoints/12/state").glob("**/d/*"), key=os.path.getsize)
    data.write_bytes(
        bytes(byte ^ (place % 1009 == 0) for place, byte in enumerate(data.read_bytes()))
    )
    found = loop.train(tiny_experiment, tiny_data, tmp_path / "run")
    assert any("kept as broken-12" in line for line in logged())
    assert any("holds step 8 of 12: going on" in line for line in logged())
    chex.assert_trees_all_equal(found.params, finished[1].params)
    assert int(found.step) == 12


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_ends_the_run_and_loses_nothing(
    finished, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(batch):
        while not (tmp_path / "checkpoints/4").exists():
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    monkeypatch.setattr(parallel, "data_parallel_step", Acting(6, fill))
    try:
        with pytest.raises(
            InputError, match=r"room and permission to save .*File too large.* is of step 4; mend"
        ):
            loop.train(tiny_experiment, tiny_data, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    monkeypatch.undo()
    found = loop.train(tiny_experiment, tiny_data, tmp_path)
    chex.assert_trees_all_equal(found.params, finished[1].params)


def test_a_log_that_cannot_be_written_is_said(tiny_experiment, tiny_data, tmp_path, monkeypatch):
    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(MetricsLog, "write", full)
    with pytest.raises(InputError, match=r"No space left on device.*goes on from the last"):
        loop.train(tiny_experiment, tiny_data, tmp_path)


def test_a_run_leaves_what_it_promises(finished, tiny_experiment):
    folder, state = finished
    assert int(state.step) == 12
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    names = {"loss", "softmax", "ring", "scale", "radius", "feature_norm", "softmax_bound"}
    names |= {"c_contrastive", "center", "triplet", "distortion"}
    assert names | {"gradient_norm", "learning_rate", "examples"} <= set(lines[0])
    rates = [line["learning_rate"] for line in lines]
    assert rates == pytest.approx([0.02] * 3 + [0.002] * 3)  # It falls after the sixth step.
    assert json.loads((folder / "config.json").read_text())["experiment"]["name"] == "tiny"
    assert "jax" in json.loads((folder / "environment.json").read_text())["versions"]
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_snapshots_stay_beside_the_newest_checkpoints(finished):
    with Checkpoints(finished[0] / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 8, 12]


def test_a_finished_run_is_not_trained_again(finished, tiny_experiment, tiny_data, monkeypatch):
    folder, expected = finished
    monkeypatch.setattr(parallel, "data_parallel_step", None)
    found = loop.train(tiny_experiment, tiny_data, folder)
    chex.assert_trees_all_equal(found.params, expected.params)


def test_a_folder_of_another_run_is_refused_with_the_difference(
    finished, tiny_experiment, tiny_data
):
    other = dataclasses.replace(tiny_experiment, seed=5)
    with pytest.raises(InputError, match=r"experiment.seed was 0, is now 5.*--fresh"):
        loop.train(other, tiny_data, finished[0])


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(
    finished, tiny_experiment, tiny_data, tmp_path
):
    """As where somebody copied it into the folder; whether agents are split may change."""
    shutil.copytree(finished[0], tmp_path / "run")
    with Checkpoints(tmp_path / "run/checkpoints") as checkpoints:
        meta = checkpoints.meta(12)
        meta["experiment"] |= {"seed": 5, "shard_agents": True}
        checkpoints.save(16, finished[1], meta)
    message = r"step 16 holds another run: experiment.seed was 5, is now 0\. .*--fresh"
    with pytest.raises(InputError, match=message):
        loop.train(tiny_experiment, tiny_data, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/16").is_dir()


def test_fresh_starts_over(finished, tiny_experiment, tiny_data, tmp_path, logged):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    for scores in ("evaluation", "evaluation-blufr"):
        owned.write_text(folder / scores / "evaluation.json", "{}")
    (folder / "evaluation_of_my_thesis").mkdir()
    (folder / "evaluation_of_my_thesis/ch1.tex").touch()
    (folder / "mine.txt").touch()
    one = dataclasses.replace(tiny_experiment.evaluation, snapshots=1)
    short = dataclasses.replace(tiny_experiment, steps=4, evaluation=one)
    state = loop.train(short, tiny_data, folder, fresh=True)
    assert int(state.step) == 4
    assert len(read_metrics(folder / "metrics.jsonl")) == 2
    assert [p.name for p in folder.glob("evaluation*")] == ["evaluation_of_my_thesis"]
    assert (folder / "evaluation_of_my_thesis/ch1.tex").exists()
    assert (folder / "mine.txt").exists()
    # 6 classes of 16 features for each of two terms.
    groups = "agents 192 (1 x rate, 1 x decay); scale 1 (1 x rate, 0 x decay)"
    assert any(groups in line for line in logged())


def spoilt(batch):
    return batch | {"images": np.full_like(batch["images"], np.nan)}


def in_sweep(experiment):
    optimizer = dataclasses.replace(experiment.optimizer, agents_update="in-sweep")
    return dataclasses.replace(experiment, optimizer=optimizer)


def test_a_killed_run_that_updates_agents_in_the_sweep_equals_an_unbroken_one(
    finished, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    run = partial(loop.train, in_sweep(tiny_experiment), tiny_data)
    expected = run(tmp_path / "unbroken")
    # The whole gradient gives the same run, but for the order of additions.
    chex.assert_trees_all_close(expected.params, finished[1].params, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(parallel, "data_parallel_step", Acting(7, kill))
    with pytest.raises(Killed):
        run(tmp_path / "killed")
    monkeypatch.undo()
    found = run(tmp_path / "killed")
    chex.assert_trees_all_equal(found.params, expected.params)
    chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("unbroken", "killed")]
    assert logs[0] == logs[1]


def test_divergence_is_named_and_the_last_good_state_saved(
    finished, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    """Off the checkpoints' interval; with the cause gone, the run goes on to the same numbers."""
    monkeypatch.setattr(parallel, "data_parallel_step", Acting(7, spoilt))
    with pytest.raises(DivergenceError) as caught:
        loop.train(tiny_experiment, tiny_data, tmp_path)
    message = str(caught.value)
    assert "step 7: expected finite metrics, found c_contrastive = nan, center = nan" in message
    assert "the gradients of backbone.kernels, backbone.slopes" in message
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() == 6
    monkeypatch.undo()
    found = loop.train(tiny_experiment, tiny_data, tmp_path)
    chex.assert_trees_all_equal(found.params, finished[1].params)
    assert (tmp_path / "metrics.jsonl").read_text() == (finished[0] / "metrics.jsonl").read_text()


# Steps that diverge by what they are told, the lines of the log, and what is said.
PASSED = {
    "skip": ([2, 4, 6, 8, 10, 12], "step 7: .* Its update is left out"),
    "rollback": ([2, 4, 8, 10, 12], "step 7: .* Back to step 4; updates left out: 5 to 7"),
}


@pytest.mark.parametrize("on_nan", ["skip", pytest.param("rollback", marks=pytest.mark.slow)])
def test_what_is_not_finite_is_passed_over_and_a_killed_run_repeats_it(
    on_nan, tiny_experiment, tiny_data, tmp_path, monkeypatch, logged
):
    steps, message = PASSED[on_nan]
    run = partial(loop.train, tiny_experiment, tiny_data, on_nan=on_nan)
    monkeypatch.setattr(parallel, "data_parallel_step", Acting(7, spoilt))
    whole = run(tmp_path / "whole")
    assert re.search(message, "\n".join(logged()))
    chex.assert_tree_all_finite(whole.params)
    assert int(whole.step) == 12
    assert [line["step"] for line in read_metrics(tmp_path / "whole/metrics.jsonl")] == steps

    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for step in (8, 12):
        shutil.rmtree(broken / f"checkpoints/{step}")
    monkeypatch.setattr(parallel, "data_parallel_step", Acting(8, kill, then=Acting(7, spoilt)))
    with pytest.raises(Killed):
        run(broken)
    monkeypatch.undo()
    monkeypatch.setattr(parallel, "data_parallel_step", Acting(7, spoilt))
    again = run(broken)
    chex.assert_trees_all_equal(again.params, whole.params)
    chex.assert_trees_all_equal(again.opt_state, whole.opt_state)
    assert (broken / "metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def kill(batch):
    raise Killed


def test_a_skipped_step_is_the_run_without_its_update(
    tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    """Batches k+1 and on are those that they were, and no other update is lost."""
    seen = []

    def recording():
        step = real()

        def run(state, batch):
            seen.append((int(state.step) + 1, bool(state.diverged), batch["labels"].tolist()))
            return step(state, spoilt(batch) if len(seen) == 7 else batch)

        return run

    real = parallel.data_parallel_step
    monkeypatch.setattr(parallel, "data_parallel_step", recording)
    state = loop.train(tiny_experiment, tiny_data, tmp_path / "a", on_nan="skip")
    counts = [
        int(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if getattr(path[-1], "name", None) == "count"
    ]
    assert set(counts) == {12}  # The learning rate drops when it would have.
    # The eighth step was under way, changed nothing, and is made again.
    assert [step for step, _, _ in seen] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]
    assert [diverged for _, diverged, _ in seen] == [False] * 7 + [True] + [False] * 5
    assert seen[7][2] == seen[8][2]


def test_a_run_over_a_mesh_diverges_as_well(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, logged
):
    """By `shard_map`: one step is spoilt, and skipped, or the end of the run until it goes on."""
    monkeypatch.setattr(loop, "_is_local", lambda experiment: False)
    with monkeypatch.context() as patched:
        patched.setattr(parallel, "mesh_step", Acting(3, spoilt, then=parallel.mesh_step))
        loop.train(tiny_experiment, tiny_data, tmp_path / "a", on_nan="skip")
        assert any("step 3: expected finite metrics" in line for line in logged())
        with pytest.raises(DivergenceError, match="step 3"):
            loop.train(tiny_experiment, tiny_data, tmp_path / "b")
    with Checkpoints(tmp_path / "b/checkpoints", read_only=True) as checkpoints:
        assert checkpoints.latest() == 2
    found = loop.train(tiny_experiment, tiny_data, tmp_path / "b")
    chex.assert_tree_all_finite(found.params)
    assert int(found.step) == 12


@pytest.mark.parametrize("steps", [(0, 0), (5, 4), (10, 13)])
def test_steps_that_cannot_be_profiled_are_refused(steps, tiny_experiment, tiny_data, tmp_path):
    with pytest.raises(InputError, match=r"profile-steps: expected .* from 1 to 12, found"):
        loop.train(tiny_experiment, tiny_data, tmp_path, profile_steps=steps)


def test_an_update_that_overflowed_is_skipped_from_the_last_checkpoint(
    tiny_experiment, tiny_data, tmp_path, monkeypatch, logged
):
    """Its metrics were finite until the parameters were not: what was before them is gone."""
    checked = divergence.check_finite

    def overflowing(step, values, nonfinite=""):
        checked(step, values | {"parameter_norm": np.inf} if step == 7 else values, nonfinite)

    monkeypatch.setattr(divergence, "check_finite", overflowing)
    found = loop.train(tiny_experiment, tiny_data, tmp_path, on_nan="skip")
    assert any("Back to step 4; updates left out: 7 to 7" in line for line in logged())
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert int(found.step) == 12


def test_a_rollback_logs_the_steps_whose_updates_it_leaves_out(logged):
    """A user looks for the bad images in these steps' batches."""
    divergences = divergence.Divergences("rollback")
    assert divergences.rolls_back(DivergenceError(7, "step 7: bad."), 4)
    assert logged() == ["step 7: bad. Back to step 4; updates left out: 5 to 7."]
    assert divergences.left_out == {5, 6, 7}


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_run_that_diverges_again_and_again_is_given_up(
    on_nan, tiny_experiment, tiny_data, tmp_path, monkeypatch
):
    monkeypatch.setattr(divergence, "MAX_LEFT_OUT", 2)
    checked = divergence.check_finite
    monkeypatch.setattr(
        divergence, "check_finite", lambda step, values, _: checked(step, {"loss": np.nan})
    )
    with pytest.raises(DivergenceError, match="step 3: "):
        loop.train(tiny_experiment, tiny_data, tmp_path, on_nan=on_nan)


def test_other_versions_and_devices_are_said_and_not_refused(
    finished, tiny_experiment, tiny_data, tmp_path, logged
):
    shutil.copytree(finished[0], tmp_path / "run")
    path = tmp_path / "run/environment.json"
    environment = json.loads(path.read_text())
    environment["versions"]["jax"] = "0.9.0"
    environment["devices"] = environment["devices"][:4]
    path.write_text(json.dumps(environment))
    for said in (True, False):  # The second time it is the environment that was recorded.
        before = len(logged())
        loop.train(tiny_experiment, tiny_data, tmp_path / "run")
        message = rf"begun with devices 4 x cpu, now 8 x cpu; jax 0\.9\.0, now {jax.__version__}:"
        assert bool(re.search(message, "\n".join(logged()[before:]))) == said


@pytest.mark.slow
def test_some_steps_are_profiled(tiny_experiment, tiny_data, tmp_path):
    short = dataclasses.replace(
        tiny_experiment, steps=4, evaluation=dataclasses.replace(Evaluation(), batch_size=10)
    )
    loop.train(short, tiny_data, tmp_path, profile_steps=(2, 3))
    assert list((tmp_path / "profile").glob("plugins/profile/*/*.xplane.pb"))


def test_an_uneven_batch_is_refused_before_anything_is_written(
    tiny_experiment, tiny_data, tmp_path
):
    data = dataclasses.replace(tiny_experiment.data, batch_size=12)
    uneven = dataclasses.replace(tiny_experiment, data=data)
    with pytest.raises(InputError, match="multiple of the 8 devices, found 12"):
        loop.train(uneven, tiny_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_made_is_said(tiny_experiment, tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a writable run folder"):
        loop.train(tiny_experiment, tiny_data, tmp_path / "file/run")


@contextlib.contextmanager
def nobody():
    """Without root's right to write anywhere."""
    was = os.geteuid()
    os.seteuid(was or 65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_run_folder_without_write_permission_is_said():
    """Of a new run, and of one that goes on."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        meta = {"experiment": {"name": "run"}}
        with locked_run_folder(folder / "run", meta):
            pass
        for path in (folder / "run", folder):
            path.chmod(0o555)
        for name in ("run", "new"):
            message = "expected a writable run folder .*Permission denied.*take another --workdir"
            with (
                nobody(),
                pytest.raises(InputError, match=message),
                locked_run_folder(folder / name, meta),
            ):
                pass
        folder.chmod(0o755)
        (folder / "run").chmod(0o755)


# ----------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_another_model_is_refused_by_name(finished, tiny_experiment):
    other = dataclasses.replace(tiny_experiment, model=Model(feature_dim=8))
    with (
        Checkpoints(finished[0] / "checkpoints") as checkpoints,
        pytest.raises(
            InputError,
            match=r"of another model: .*params/backbone/feature/bias expected float32\[8\], found "
            r"float32\[16\]",
        ),
    ):
        checkpoints.restore(12, abstract_state(other, 6, (16, 14, 3)), mesh.replicated())


def test_a_dtype_is_compared_too(finished, tiny_experiment):
    like = abstract_state(tiny_experiment, 6, (16, 14, 3))
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float16), like.params)
    with (
        Checkpoints(finished[0] / "checkpoints") as checkpoints,
        pytest.raises(InputError, match=r"expected float16.*found float32"),
    ):
        checkpoints.restore(12, like.replace(params=half), mesh.replicated())


def test_a_broken_step_neither_counts_nor_stops_saving(finished, tmp_path):
    unbroken, state = finished
    folder = tmp_path / "checkpoints"
    shutil.copytree(unbroken / "checkpoints", folder)
    owned.claim_tree(folder / "99")
    (folder / "99").mkdir()  # What a crash of the file system may leave.
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.latest() == 12
    assert (folder / "99").exists()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.meta(12)["data"]["classes"] == 6
        checkpoints.save(13, state, {})
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 13


def test_moving_averages_of_batch_norm_are_saved(finished, tmp_path):
    _, state = finished
    state = state.replace(batch_stats={"norm": {"mean": np.arange(3, dtype=np.float32)}})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(12, state, {})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        like = jax.eval_shape(lambda: state)
        found = checkpoints.restore(12, like, mesh.replicated())
    chex.assert_trees_all_equal(found.variables, state.variables)


def test_a_reader_does_not_disturb_a_save(finished, tmp_path):
    _, state = finished
    with Checkpoints(tmp_path) as writer:
        writer.save(1, state, {"run": 1})
        with Checkpoints(tmp_path, read_only=True) as reader:
            assert reader.latest() in (None, 1)
    with Checkpoints(tmp_path, read_only=True) as reader:
        assert reader.meta(1) == {"run": 1}


def test_fresh_deletes_a_run_and_nothing_else(tiny_experiment, tiny_data, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for fresh in (True, False):
        with pytest.raises(InputError, match=r"found thesis\.txt, not recorded") as refused:
            loop.train(tiny_experiment, tiny_data, tmp_path, fresh=fresh)
        assert "--fresh" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_overflowing_update_is_not_saved(tiny_experiment, tiny_data, tmp_path):
    """The metrics of the first step are finite; the parameters after it are not."""
    wild = dataclasses.replace(
        tiny_experiment, optimizer=Optimizer(learning_rate=1e38), log_every=1, checkpoint_every=1
    )
    with pytest.raises(DivergenceError, match=r"step 1: .*parameter_norm"):
        loop.train(wild, tiny_data, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() is None


def test_the_last_step_is_logged_even_off_the_interval(tiny_experiment, tiny_data, tmp_path):
    odd = dataclasses.replace(tiny_experiment, steps=3)
    loop.train(odd, tiny_data, tmp_path)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2, 3]


# --------------------------------------------------------------------------- metrics and progress


def test_the_first_cause_is_named():
    values = {"feature_norm": 1.0, "gradient_norm": np.nan, "loss": np.nan, "softmax": np.inf}
    with pytest.raises(
        DivergenceError, match="step 7: expected finite metrics, found softmax = inf"
    ):
        check_finite(7, values)


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path, 0, every=1)
    for step in range(1, 6):
        assert log.add(step, {"loss": float(step)})
        log.write(step)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 6, "lo')  # Cut short by a kill.
    log = MetricsLog(tmp_path, 3, every=1)
    log.add(4, {"loss": 40.0})
    log.write(4)
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 40]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_what_a_trainer_watches(terminal, logged):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    metrics = {"loss": 1.25, "scale": 7.5, "radius": 2.0, "feature_norm": 3.0, "examples": 64.0}
    with TrainingProgress("demo", 0, 3, console) as progress:
        for step in (1, 2, 3):
            progress.update(step, metrics)
    shown = out.getvalue() if terminal else "\n".join(logged())
    for part in ("demo", "3/3", "loss 1.25", "scale 7.50", "R 2.00", "norm 3.00", "images/s"):
        assert part in shown
    if terminal:
        assert "0:00:00" in out.getvalue()
