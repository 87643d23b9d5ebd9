"""`plan` resolves or refuses what was asked for before anything is trained or written."""

import dataclasses
import json

import pytest
from conftest import write_people

from hyperface import owned
from hyperface.errors import InputError
from hyperface.runs import prepare, train


@pytest.fixture
def options(tiny_experiment, tiny_data, tmp_path):
    compared = dataclasses.replace(tiny_experiment, compare=("orl-ring", "orl-normface"))
    return train.Train(compared, workdir=tmp_path / "run", data_dir=tiny_data)


def test_training_is_planned_run_by_run(options, tiny_experiment, tiny_data, tmp_path):
    run = tmp_path / "run"
    tasks = train.plan(dataclasses.replace(options, workers=2, on_nan="skip"))
    assert [(task.experiment.name, task.folder) for task in tasks] == [
        (tiny_experiment.name, run),
        ("orl-ring", run / "compare/orl-ring"),
        ("orl-normface", run / "compare/orl-normface"),
    ]
    assert {task.experiment.compare for task in tasks[1:]} == {()}
    assert {task.experiment.model for task in tasks} == {tiny_experiment.model}
    assert {(t.data_dir, t.start, t.workers, t.on_nan) for t in tasks} == {
        (tiny_data, None, 2, "skip")
    }
    assert not run.exists()


def test_a_run_to_compare_with_is_refused_before_the_first_one_is_trained(options, tmp_path):
    *_, last = train.plan(options)
    for folder in (tmp_path / "run", last.folder):
        with owned.locked(folder, "being tested in", owned.RUN):
            if folder == last.folder:
                owned.write_text(folder / "config.json", json.dumps({"experiment": {"seed": 5}}))
    with pytest.raises(InputError, match="orl-normface holds another run"):
        train.plan(options)
    with pytest.raises(InputError, match="profile-steps: expected a first and a last step"):
        train.plan(dataclasses.replace(options, fresh=True, profile_steps=(1, 10**6)))
    assert not (tmp_path / "run/config.json").exists()


def test_a_damaged_config_is_one_error(options, tmp_path):
    first, *_ = train.plan(options)
    with owned.locked(first.folder, "being tested in", owned.RUN):
        owned.write_text(first.folder / "config.json", json.dumps({"experiment": 1})[:-3])
    with pytest.raises(InputError, match="expected a writable run folder"):
        train.plan(options)


def test_a_data_set_is_planned_before_an_image_is_read(tmp_path):
    root = write_people(tmp_path / "people", people=3, images=2)
    points = tmp_path / "points.csv"
    points.write_text(
        "file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy\nperson0/0.png" + ",5" * 10 + "\n"
    )
    names = tmp_path / "names.txt"
    names.write_text("person1\n")
    given = prepare.Prepare(str(root), out="mine", data_dir=tmp_path / "data", test_people=names)
    task = prepare.plan(given)
    assert (task.folder, len(task.source.names)) == (tmp_path / "data/mine", 6)
    assert (task.stored.test_people, task.stored.channels, task.stored.align) == (
        ["person1"],
        None,
        None,
    )
    aligned = prepare.plan(dataclasses.replace(given, landmarks=points, size="144x144"))
    assert (aligned.size, aligned.stored.channels) == ((144, 144), 1)
    assert list(aligned.stored.align.landmarks) == ["person0/0.png"]
    for wrong, message in (
        ({"out": "not a name"}, "--out: expected a name of letters"),
        ({"faces": "all"}, "--faces: expected --detect with it"),
        ({"size": "112x112"}, "--size 112x112: expected --detect"),
        ({"detect": True, "landmarks": points}, "one of --detect and --landmarks"),
    ):
        with pytest.raises(InputError, match=message):
            prepare.plan(dataclasses.replace(given, **wrong))
    assert not (tmp_path / "data").exists()
