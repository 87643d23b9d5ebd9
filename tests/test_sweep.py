"""hyperface sweep: every setting and seed trained once, resumed, and put side by side."""

import csv
import json
import shutil
from statistics import mean, stdev

import pytest

from hyperface.errors import InputError
from hyperface.report.sweep import sweep_table, write_sweep_report
from hyperface.report.sweep_figures import sweep_curve
from hyperface.report.swept import SweptRun
from hyperface.runs import sweep, train
from hyperface.train.interrupt import Interrupted

SMALL = [
    "--steps", "6", "--log-every", "1", "--checkpoint-every", "2", "--model.name", "lenet",
    "--data.name", "tiny", "--data.batch-size", "16", "--model.feature-dim", "8",
    "--optimizer.learning-rate", "0.02", "--optimizer.boundaries", "--evaluation.folds", "4",
]  # fmt: skip
RING = "loss.ring.weight=0,0.1"
FIGURES = {"accuracy", "accuracy_standard_error", "tar_at_far_0.01", "tar_at_far_0.001"}


def swept(out, data, *given, more=SMALL):
    """Runs the command and returns its status and what sweep.json then holds."""
    with pytest.raises(SystemExit) as end:
        sweep.main(["orl-ring", *given, "--out", str(out), "--", *more, "--data-dir", str(data)])
    return end.value.code, json.loads((out / "sweep.json").read_text())


@pytest.fixture(scope="module")
def done(tiny_data, tmp_path_factory):
    """A sweep of two settings and two seeds."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    status, record = swept(out, tiny_data, RING, "--seeds", "2")
    assert status == 0
    return out, record


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained, while the test lasts."""
    names, whole = [], train.plan

    def listed(options):
        names.append(options.workdir.name)
        return whole(options)

    monkeypatch.setattr(train, "plan", listed)
    return names


@pytest.mark.slow
def test_every_setting_and_seed_has_a_run(done):
    out, record = done
    names = [f"loss.ring.weight={w},seed={s}" for w in ("0.0", "0.1") for s in (0, 1)]
    assert [run["name"] for run in record["runs"]] == names
    for name in names:
        config = json.loads((out / name / "config.json").read_text())["experiment"]
        assert f"loss.ring.weight={config['loss']['ring']['weight']},seed={config['seed']}" == name
        assert config["compare"] == []
        assert (out / name / "report.html").exists()


@pytest.mark.slow
def test_the_tables_hold_what_the_runs_scored(done):
    out, record = done
    scored = {}
    for run in record["runs"]:
        results = json.loads((out / run["name"] / "results.json").read_text())["results"]
        assert run["figures"] == results["orl-ring"]
        scored.setdefault(run["values"]["loss.ring.weight"], []).append(run["figures"]["accuracy"])
    for setting in record["settings"]:
        found = scored[setting["values"]["loss.ring.weight"]]
        assert setting["mean"]["accuracy"] == pytest.approx(mean(found))
        assert setting["standard_deviation"]["accuracy"] == pytest.approx(stdev(found))
    rows = list(csv.DictReader((out / "sweep.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [a for both in scored.values() for a in both]
    assert {row["status"] for row in rows} == {"done"}
    assert set(rows[0]) == {"run", "loss.ring.weight", "seed", "status", "message"} | FIGURES
    page = (out / "sweep.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "4 of 4 runs are done" in page


@pytest.mark.slow
def test_what_is_done_is_not_trained_again_and_more_can_be_added(
    done, tiny_data, tmp_path, trained
):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    _, again = swept(out, tiny_data, RING, "--seeds", "2")
    assert again == done[1]
    assert trained == []
    _, more = swept(out, tiny_data, "loss.ring.weight=0,0.1,0.3")
    assert trained == ["loss.ring.weight=0.3,seed=0"]
    assert more["runs"][:2] == done[1]["runs"][::2]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(done, tiny_data, tmp_path, trained, capsys):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    killed = out / "loss.ring.weight=0.1,seed=1"
    for name in ("results.json", "report.html"):
        (killed / name).unlink()
    shutil.rmtree(killed / "checkpoints/6")
    _, record = swept(out, tiny_data, RING, "--seeds", "2")
    assert trained == [killed.name]
    assert "holds step 4 of 6: going on" in " ".join(capsys.readouterr().out.split())
    assert record == done[1]


@pytest.mark.slow
def test_a_run_whose_results_are_damaged_is_scored_again(done, tiny_data, tmp_path, trained):
    out = tmp_path / "out"
    shutil.copytree(done[0], out)
    damaged = out / "loss.ring.weight=0.0,seed=1"
    (damaged / "results.json").write_text("{")
    status, record = swept(out, tiny_data, RING, "--seeds", "2")
    assert (status, trained, record) == (0, [damaged.name], done[1])


@pytest.mark.slow
def test_other_options_in_the_same_folder_are_refused_before_training(done, tiny_data, trained):
    with pytest.raises(
        InputError, match=r"holds another run: experiment\.loss\.ring\.form was paper"
    ):
        swept(done[0], tiny_data, RING, more=[*SMALL, "--loss.ring.form", "released-l2"])
    assert trained == []


@pytest.mark.slow
def test_a_run_that_diverges_or_fails_does_not_stop_the_others(tiny_data, tmp_path, capsys):
    rates = ["optimizer.learning-rate=1e38,0.02"]
    status, record = swept(tmp_path / "a", tiny_data, *rates)
    assert status == 3
    assert [run["status"] for run in record["runs"]] == ["diverged", "done"]
    assert "expected finite metrics" in record["runs"][0]["message"]
    assert record["settings"][0]["mean"] == {}
    assert "diverged" in (tmp_path / "a/sweep.html").read_text()
    assert "0 of 1" in capsys.readouterr().out
    sizes = ["data.batch-size=15,16"]  # On eight devices.
    status, record = swept(tmp_path / "b", tiny_data, *sizes)
    assert status == 2
    assert [run["status"] for run in record["runs"]] == ["failed", "done"]
    assert "expected a multiple of the 8 devices" in record["runs"][0]["message"]


def test_any_failure_of_a_run_is_recorded(tiny_data, tmp_path, monkeypatch):
    def broken(tasks):
        raise MemoryError("too large")

    monkeypatch.setattr(train, "run", broken)
    status, record = swept(tmp_path, tiny_data, RING)
    assert status == 2
    assert [run["status"] for run in record["runs"]] == ["failed", "failed"]
    assert record["runs"][0]["message"] == "MemoryError: too large"


@pytest.mark.parametrize(("signal", "expected"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_a_signal_ends_the_sweep(tiny_data, tmp_path, monkeypatch, signal, expected):
    def stopped(tasks):
        raise Interrupted(3, signal)

    monkeypatch.setattr(train, "run", stopped)
    status, record = swept(tmp_path, tiny_data, RING)
    assert status == expected
    assert [run["status"] for run in record["runs"]] == ["not run", "not run"]


def test_a_launcher_of_several_processes_is_refused(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("HYPERFACE_COORDINATOR", "host:1")
    with pytest.raises(InputError, match="one process for a sweep"):
        sweep.run(sweep.Sweep("orl-ring", (RING,), 1), planned(RING))


def planned(*fields, more=(), seeds=1):
    return sweep.plan(sweep.Sweep("orl-ring", fields, seeds), list(more))


def test_values_are_those_of_the_options():
    runs = planned(
        "loss.ring.initial-radius=None,2.5",
        "loss.softmax.bias=True,False",
        "optimizer.boundaries=,400 600",
        more=["--steps", "700", "--seed", "5"],
    )
    assert len(runs) == 8
    first, last = runs[0].options.experiment, runs[-1].options.experiment
    assert (first.loss.ring.initial_radius, first.loss.softmax.bias) == (None, True)
    assert first.optimizer.boundaries == ()
    assert (last.loss.ring.initial_radius, last.loss.softmax.bias) == (2.5, False)
    assert last.optimizer.boundaries == (400, 600)
    assert {run.options.experiment.steps for run in runs} == {700}
    assert runs[-1].name == (
        "loss.ring.initial_radius=2.5,loss.softmax.bias=False,optimizer.boundaries=400x600,seed=5"
    )
    assert [one.options.experiment.seed for one in planned(RING, seeds=2)] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "expected a field to sweep, such as"),
        (["loss.ring.weight"], "expected FIELD=VALUE,VALUE"),
        (["loss.rng.weight=1"], "unknown field 'loss.rng'. Did you mean 'loss.ring'?"),
        (["loss.ring=1"], "expected a field with a value, found a group"),
        (["workdir=a"], "unknown field 'workdir'"),
        (["steps.more=1"], "unknown field 'steps.more'"),
        (["seed=1,2"], "expected no values, but --seeds"),
        (["steps=1", "steps=2"], "expected one list of values, found two"),
        (["loss.ring.weight=0.1,0.10"], "expected different settings"),
        (["loss.ring.weight=0.1,-1"], "expected a finite number of at least 0"),
        (["loss.softmax.scale=1,learned"], "needs normalised features"),
        (["shard_agents=yes"], "expected True or False, found yes"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        planned(*fields)


def test_a_value_of_another_type_ends_the_program(capsys):
    with pytest.raises(SystemExit) as end:
        planned("loss.ring.weight=0.1,much")
    assert end.value.code == 2
    assert "loss.ring.weight" in capsys.readouterr().err


def test_the_folder_is_not_chosen_by_the_runs_options():
    with pytest.raises(InputError, match="expected --out of the sweep"):
        planned(RING, more=["--workdir", "here"])


def runs_of(scores, field="loss.ring.weight"):
    return [
        SweptRun(f"{value}-{seed}", {field: value, "seeded": "no"}, seed, "done", {"accuracy": a})
        for value, found in scores.items()
        for seed, a in enumerate(found)
    ]


def test_mean_and_sample_deviation_of_a_setting():
    lost = SweptRun("x", {"loss.ring.weight": 0.1, "seeded": "no"}, 2, "diverged", {}, "why")
    table = sweep_table([*runs_of({0.1: [0.8, 0.9], 1.0: [0.7]}), lost])
    # The deviation of 80 and 90 is 10 / sqrt 2; one run alone has none.
    assert table.rows[0] == ["0.1", "no", "2 of 3", "85.00 ± 7.07 %"]
    assert table.rows[1] == ["1.0", "no", "1 of 1", "70.00 %"]


def test_settings_have_a_csv_of_mean_and_sample_deviation(tmp_path):
    lost = SweptRun("x", {"loss.ring.weight": 0.1, "seeded": "no"}, 2, "diverged", {}, "why")
    runs = [*runs_of({0.1: [0.8, 0.9], 1.0: [0.7]}), lost]
    write_sweep_report(tmp_path, name="orl-ring", runs=runs, command="", settings={})
    first, second = csv.DictReader((tmp_path / "settings.csv").read_text().splitlines())
    assert (first["loss.ring.weight"], first["runs"], first["done"]) == ("0.1", "3", "2")
    assert float(first["accuracy: mean"]) == pytest.approx(0.85)
    assert float(first["accuracy: standard deviation"]) == pytest.approx(0.1 / 2**0.5)
    assert second["accuracy: mean"] == "0.7"
    assert second["accuracy: standard deviation"] == ""  # One run alone has none.


@pytest.mark.parametrize(
    ("values", "scale", "places"),
    [
        ((0.01, 0.1, 1.0), "log", [0.01, 0.1, 1.0]),
        ((0.0, 0.01, 1.0), "symlog", [0.0, 0.01, 1.0]),
        ((64, 128), "linear", [64, 128]),
        (("learned", 10.0), "linear", [0, 1]),
        ((True, False), "linear", [0, 1]),
    ],
)
def test_the_axis_fits_the_values(values, scale, places):
    drawn = sweep_curve(runs_of({v: [0.5, 0.7] for v in values}, "x"), "x", "accuracy")
    (axes,) = drawn.axes
    assert axes.get_xscale() == scale
    line = axes.lines[0]
    assert list(line.get_xdata()) == pytest.approx(places)
    assert list(line.get_ydata()) == pytest.approx([60.0] * len(values))


def test_a_sweep_of_which_nothing_is_done_has_a_report(tmp_path):
    runs = [SweptRun("a", {"steps": 1}, 0, "not run")]
    write_sweep_report(tmp_path, name="orl-ring", runs=runs, command="", settings={})
    assert "0 of 1 runs are done" in (tmp_path / "sweep.html").read_text()
    assert (tmp_path / "sweep.csv").read_text() == "run,steps,seed,status,message\na,1,0,not run,\n"
    assert (tmp_path / "settings.csv").read_text() == "steps,runs,done\n1,1,0\n"
