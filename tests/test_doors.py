"""Open doors: a stranger's file, backbone, losses, metrics function, and training by Python."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import write_people
from flax import linen as nn

from hyperface import experiments
from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer, check
from hyperface.config.loss import CustomTerm, Loss, SoftmaxTerm
from hyperface.config.records import describe
from hyperface.errors import InputError
from hyperface.runs import evaluate, export, prepare, sweep, train
from hyperface.train.run_folder import check_same_experiment
from hyperface.train.state import create_state

BACKBONE = '''
"""A backbone of the stranger's, in a file beside the experiment."""

from flax import linen as nn


class SmallViT(nn.Module):
    feature_dim: int
    width: int = 8

    @nn.compact
    def __call__(self, images):
        x = nn.Conv(self.width, (4, 4), (4, 4), name="patches")(images)
        x = x.reshape(x.shape[0], -1, self.width)
        start = nn.initializers.normal(0.02)
        x = x + self.param("pos_embedding", start, x.shape[1:])[None]
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(self.feature_dim)(x.mean(axis=1))
'''
EXPERIMENT = '''"""A small transformer with losses of my own.

More about it.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import linen as nn
from stranger_backbone import SmallViT

from hyperface import losses
from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer
from hyperface.config.loss import CustomTerm, Loss, SoftmaxTerm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CosFace:
    """A class-wise term, as hyperface.losses.classwise documents it."""

    scale: float = 8.0
    margin: float = 0.1
    normalize: str = dataclasses.field(default="both", metadata={"static": True})

    @property
    def fold(self):
        return losses.LogSumExp(bounded=True)

    def fold_args(self, target):
        return jnp.full_like(target.similarity, self.scale)

    def loss(self, target, value):
        return jax.nn.softplus(value - self.scale * (target.similarity - self.margin))


def small_features(features, labels):
    return jnp.mean(features**2, axis=1)


class LearnedLength(nn.Module):
    @nn.compact
    def __call__(self, features, labels):
        length = self.param("wanted_length", nn.initializers.ones, ())
        return (jnp.linalg.norm(features, axis=1) - length) ** 2


def write_down(step, metrics):
    with (Path(__file__).parent / "seen.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **metrics}) + "\\n")
    if step == 2:
        raise ConnectionError("no network")


EXPERIMENT = Experiment(
    "strangers",
    steps=6,
    log_every=1,
    checkpoint_every=3,
    data=Data(name="tiny", batch_size=16),
    model=Model(backbone=SmallViT, feature_dim=6),
    loss=Loss(
        softmax=SoftmaxTerm(weight=0.0),
        custom=(
            CustomTerm("cosface", CosFace(margin=0.2)),
            CustomTerm("small", small_features, weight=0.1),
            CustomTerm("length", LearnedLength(), weight=0.1),
        ),
    ),
    optimizer=Optimizer(learning_rate=0.02),
    evaluation=Evaluation(folds=4),
    on_metrics=write_down,
)
'''


def write_files(folder: Path, experiment: str = EXPERIMENT) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "stranger_backbone.py").write_text(BACKBONE)
    (folder / "my_experiment.py").write_text(experiment)
    return folder / "my_experiment.py"


@pytest.fixture(autouse=True)
def _no_modules_left():
    yield
    sys.modules.pop("stranger_backbone", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve people to train, so that eight devices can each hold some, and four to test."""
    root = write_people(tmp_path_factory.mktemp("people"), people=16, images=6)
    data_dir = tmp_path_factory.mktemp("data")
    folder = prepare.prepare(prepare.Prepare(str(root), out="tiny", held_out=4, data_dir=data_dir))
    assert folder.is_dir()
    return ["--data-dir", str(data_dir)]


@pytest.fixture(scope="module")
def run(home, data):
    """The run of the stranger's file."""
    train.main([str(write_files(home)), *data, "--workdir", str(home / "run")])
    return home / "run"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_strangers_file_trains_with_its_own_backbone_losses_and_metrics(run, home):
    log = lines(run / "metrics.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    parts = log[0]["cosface"] + 0.1 * log[0]["small"] + 0.1 * log[0]["length"]
    assert parts == pytest.approx(log[0]["loss"], rel=1e-5)
    assert log[-1]["loss"] < log[0]["loss"]
    assert lines(home / "seen.jsonl")[:6] == log
    config = json.loads((run / "config.json").read_text())
    model, custom = (config["experiment"][name] for name in ("model", "loss"))
    assert model["backbone"] == "stranger_backbone.SmallViT"
    assert model["name"] == model["backbone"]
    assert custom["custom"][0]["loss"] == (
        "experiment_file_my_experiment.CosFace(scale=8.0, margin=0.2, normalize='both')"
    )
    assert config["experiment"]["on_metrics"] == "experiment_file_my_experiment.write_down"
    assert (run / "my_experiment.py").read_text() == EXPERIMENT
    scores = json.loads((run / "results.json").read_text())["results"]
    assert 0 < scores["strangers"]["accuracy"] <= 1


def test_groups_and_an_error_of_the_metrics_function_are_printed(home, data, tmp_path, capsys):
    """Options change the file's experiment."""
    changed = ["--steps", "3", "--loss.custom.1.weight", "0", "--model.feature-dim", "5"]
    train.main([str(write_files(home)), *changed, *data, "--workdir", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert re.search(r"others 129 \(1 x rate, 1 x decay: pos_embedding, wanted_length\)", shown)
    assert "write_down, raised ConnectionError: no network. Training goes on." in shown
    log = lines(tmp_path / "run/metrics.jsonl")
    assert len(log) == 3
    assert "small" not in log[0]


def test_a_run_with_objects_is_evaluated_and_exported_after_its_file_is_gone(
    run, home, data, tmp_path, monkeypatch
):
    (home / "my_experiment.py").unlink()
    with pytest.raises(InputError, match=r"expected permission to execute my_experiment\.py"):
        evaluate.main([str(run), *data])  # The run may be a stranger's.
    monkeypatch.setenv("HYPERFACE_RUN_CODE", "1")
    evaluate.main([str(run), *data])
    found = json.loads((run / "evaluation.json").read_text())["figures"]
    assert found == json.loads((run / "results.json").read_text())["results"]["strangers"]
    export.main([str(run), "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out/embedder.json").read_text())
    assert record["model"] == "stranger_backbone.SmallViT"


def test_more_steps_go_on_from_the_end_to_the_same_numbers(run, home, data, tmp_path):
    file, folder = write_files(home), tmp_path / "run"
    for steps in ("3", "6"):
        train.main([str(file), "--steps", steps, *data, "--workdir", str(folder)])
    assert (folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    history = [(line["from_step"], line["to_step"]) for line in lines(folder / "history.jsonl")]
    assert history == [(0, 3), (3, 6)]
    assert json.loads((folder / "config.json").read_text())["experiment"]["steps"] == 6
    for name in ("strangers", "raw pixels"):
        found, expected = (
            json.loads((path / "results.json").read_text())["results"][name]
            for path in (folder, run)
        )
        assert found == expected
    with pytest.raises(InputError, match=r"experiment\.steps was 6, is now 3"):
        train.main([str(file), "--steps", "3", *data, "--workdir", str(folder)])
    wider = EXPERIMENT.replace("CosFace(margin=0.2)", "CosFace(margin=0.3)")
    with pytest.raises(InputError, match=r"loss.custom was .*margin=0.2.*is now .*margin=0.3"):
        train.main([str(write_files(home, wider)), *data, "--workdir", str(folder)])


def test_a_run_under_a_cosine_takes_no_more_steps():
    """Its steps would have had other rates in a longer run."""

    def meta(steps, schedule):
        optimizer = Optimizer(schedule=schedule)
        return {"experiment": Experiment("x", steps, optimizer=optimizer).to_dict(), "data": {}}

    check_same_experiment("run", meta(3, "steps"), meta(6, "steps"))
    with pytest.raises(InputError, match=r"experiment\.steps was 3, is now 6"):
        check_same_experiment("run", meta(3, "cosine"), meta(6, "cosine"))


def test_snapshots_that_were_not_kept_are_refused_before_training(home, data):
    several = EXPERIMENT.replace("folds=4", "folds=4, snapshots=2, snapshot_every=3")
    file, folder = write_files(home / "other", several), home / "snapshots"
    train.main([str(file), *data, "--workdir", str(folder)])
    before = (folder / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match=r"steps: expected .* needs the checkpoints of steps \[5"):
        train.main([str(file), "--steps", "8", *data, "--workdir", str(folder)])
    assert (folder / "metrics.jsonl").read_text() == before


def test_split_agents_train_to_the_same_numbers_and_go_on(run, home, data, tmp_path):
    arguments = [str(write_files(home)), "--shard-agents", *data, "--workdir", str(tmp_path / "r")]
    train.main([*arguments, "--steps", "3"])
    train.main(arguments)
    for found, expected in zip(
        lines(tmp_path / "r/metrics.jsonl"), lines(run / "metrics.jsonl"), strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_changed_file_is_reported(home, data, tmp_path, capsys):
    arguments = [*data, "--workdir", str(tmp_path / "r")]
    train.main([str(write_files(home)), *arguments, "--steps", "3"])
    capsys.readouterr()
    changed = EXPERIMENT.replace("features**2", "jnp.abs(features)")
    train.main([str(write_files(home, changed)), *arguments])
    shown = capsys.readouterr().out
    assert f"my_experiment.py has changed since {tmp_path / 'r'} was begun" in shown
    first, second = (line["file"] for line in lines(tmp_path / "r/history.jsonl"))
    assert first != second
    assert (tmp_path / "r/my_experiment.py").read_text() == changed


def test_a_strangers_loss_is_swept(tmp_path):
    given = sweep.Sweep(str(write_files(tmp_path)), ("loss.custom.1.weight=0,0.5",))
    planned = sweep.plan(given, ["--steps", "3"])
    assert [one.options.workdir.name for one in planned] == [
        "loss.custom.1.weight=0.0,seed=0",
        "loss.custom.1.weight=0.5,seed=0",
    ]
    for one, weight in zip(planned, (0.0, 0.5), strict=True):
        assert one.options.experiment.loss.custom[1].weight == weight
        assert one.options.experiment.steps == 3
        assert one.options.file == tmp_path / "my_experiment.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "my.py: expected EXPERIMENT = .*, found none"),
        ("EXPERIMENT = 1\n", "my.py: expected EXPERIMENT = .*, found int"),
        ("x = 1\ny = (\n", r"my.py:2: expected Python, found: '\(' was never closed"),
        (
            "\n\nraise KeyError(3)\n",
            "my.py:3: expected a file that runs to its end, found KeyError",
        ),
        ("import nothing_of_this_name\n", "my.py:1: .* found ModuleNotFoundError"),
        ("import sys\nsys.exit()\n", "my.py:2: .* found SystemExit"),
        (None, "my.py: expected a Python file, found none"),
        (
            "from hyperface.config.experiment import Experiment\nEXPERIMENT = Experiment('x', 0)\n",
            "steps: expected at least 1, found 0",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(text, message, tmp_path):
    if text is not None:
        (tmp_path / "my.py").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        train.main([str(tmp_path / "my.py")])
    assert "\n" not in str(raised.value)


def test_the_command_of_a_checkout_takes_a_file_too(tmp_path):
    (tmp_path / "my.py").write_text("raise KeyError(3)\n")
    checkout = Path(__file__).parents[1]
    ended = subprocess.run(
        [sys.executable, "-m", "launch.train", "my.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: my.py:1: expected a file that runs")
    assert ended.stderr.count("\n") == 1


class Linear(nn.Module):
    """The least backbone, which compiles at once."""

    feature_dim: int = 4

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.feature_dim)(images.reshape(images.shape[0], -1))


def of(**changes) -> Experiment:
    """A small experiment as one defines it in a notebook."""
    return Experiment(
        "mine",
        steps=2,
        log_every=1,
        checkpoint_every=2,
        data=Data(name="tiny", batch_size=16),
        evaluation=Evaluation(folds=4),
        optimizer=Optimizer(learning_rate=0.02),
        **changes,
    )


def custom(*terms: CustomTerm) -> Loss:
    return Loss(softmax=SoftmaxTerm(weight=0.0), custom=terms)


def test_a_notebook_does_the_main_job(data, tmp_path):
    """Without a file, such a run is evaluated from Python only, and commands say so."""
    seen = []
    experiment = of(
        model=Model(backbone=Linear(5)),
        loss=Loss(custom=(CustomTerm("short", lambda x, labels: jnp.abs(x).sum(1), 0.01),)),
        on_metrics=lambda step, metrics: seen.append((step, metrics["short"])),
    )
    run = train.train(experiment, workdir=tmp_path / "r", data_dir=data[1])
    again = train.train(experiment, workdir=tmp_path / "r", data_dir=data[1])
    assert [step for step, _ in seen] == [1, 2]
    assert set(run.scores) == {"raw pixels", "mine"}
    assert again.scores == run.scores
    images = np.zeros((3, 16, 14, 3), np.float32)
    assert run.embedder()(images).shape == (3, 5)
    for command in (evaluate.main, lambda a: export.main([*a, "--out", str(tmp_path / "out")])):
        with pytest.raises(InputError, match=r"model.backbone: expected the object .*Linear"):
            command([str(run.folder)])


def batch():
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 6, 5, 1)).astype(np.float32), np.arange(8, dtype=np.int32) % 3


def make(width):
    return Linear(width)


def make_wide(feature_dim, dtype):
    assert dtype == "float32"
    return Linear(2 * feature_dim)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (Model(backbone=Linear(7)), 7),
        (Model(backbone=Linear(7, name="given", parent=None)), 7),
        (Model(backbone=Linear, feature_dim=9), 9),
        (Model(backbone=make_wide, feature_dim=3), 6),
        (Model(backbone=lambda: Linear(2)), 2),
    ],
)
def test_a_backbone_is_a_module_or_what_makes_one(model, size):
    state = create_state(check(of(model=model)), 3, *batch())
    assert state.params["backbone"]["Dense_0"]["kernel"].shape == (30, size)


class Maps(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Conv(3, (3, 3))(images)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.BatchNorm(use_running_average=False)(images.reshape(images.shape[0], -1))


class Cached(nn.Module):
    @nn.compact
    def __call__(self, images):
        self.variable("cache", "seen", jnp.zeros, ())
        return nn.Dense(2)(images.reshape(images.shape[0], -1))


class NoPytree:
    normalize, fold = "both", None

    def fold_args(self, target): ...

    def loss(self, target, value): ...


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Model(backbone=3)}, "model.backbone: expected a module or a function, found 3"),
        ({"model": Model("lenet", backbone=Linear())}, "model.name: expected no value but"),
        ({"model": Model(feature_dim=5, backbone=Linear())}, "model.feature-dim: expected no val"),
        ({"model": Model(backbone=lambda: 3)}, "expected a flax linen module, .* found int"),
        ({"model": Model(backbone=Maps())}, r"expected features \[8, dim\] of Maps, found \(8, 6"),
        ({"model": Model(backbone=Normed())}, "expected `batch_norm = True` of a module with"),
        ({"model": Model(backbone=Cached())}, "found the collection 'cache'"),
        (
            {"loss": custom(CustomTerm("a b", max))},
            "loss.custom.0.name: expected a name of letters",
        ),
        ({"loss": custom(CustomTerm("ring", max))}, "loss.custom.0.name: .* found ring"),
        (
            {"loss": custom(CustomTerm("a", max), CustomTerm("a", max))},
            "loss.custom.1.name: .* found a",
        ),
        ({"loss": custom(CustomTerm("a", max, -1.0))}, "loss.custom.0.weight: expected a finite"),
        ({"loss": custom(CustomTerm("a", 3))}, "loss.custom.0.loss: expected a class-wise term, a"),
        (
            {"loss": custom(CustomTerm("a", lambda x, labels: x.sum()))},
            r"the loss a to return floats \[8\], one per example, found float32 of shape \(\)",
        ),
        (
            {"loss": custom(CustomTerm("a", NoPytree()))},
            "expected a pytree as the class-wise term a",
        ),
    ],
)
def test_objects_that_cannot_be_used_are_refused(changes, message):
    changes = {"model": Model(backbone=Linear())} | changes
    with pytest.raises(InputError, match=message):
        create_state(check(of(**changes)), 3, *batch())


def test_a_backbone_may_name_its_parts_as_our_heads_do():
    """Parameters of the backbone are never split by class."""
    from hyperface.train.class_rows import has_class_rows

    path = [jax.tree_util.DictKey(name) for name in ("backbone", "head", "softmax", "bias")]
    assert has_class_rows(tuple(path[1:]), Loss())
    assert not has_class_rows(tuple(path), Loss())


def test_descriptions_are_the_same_in_every_process():
    assert describe(Linear(3)) == "test_doors.Linear(feature_dim=3)"
    assert describe(Linear(3, name="x", parent=None)) == describe(Linear(3))
    assert describe(make) == "test_doors.make"
    assert "0x" not in describe(object())
    assert describe({"a": (1, [2.5])}) == "{a=(1, (2.5))}"


def test_an_experiment_with_objects_is_read_back_with_the_same_objects_only():
    experiment = of(model=Model(backbone=Linear(3)), loss=custom(CustomTerm("a", make)))
    values = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment.from_dict(values, experiment).model == experiment.model
    assert Experiment.from_dict(values, experiment).loss.custom[0].loss is make
    other = of(model=Model(backbone=Linear(4)), loss=experiment.loss)
    for given in (None, other):
        with pytest.raises(InputError, match=r"model.backbone: expected the object .*Linear"):
            Experiment.from_dict(values, given)
    assert "custom" not in experiments.load("orl-ring").to_dict()["loss"]
