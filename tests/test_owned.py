"""Nothing of anyone's is removed, renamed or overwritten, whatever the command and the option."""

import contextlib
import json
import os
import shutil

import hypothesis.strategies as st
import pytest
from conftest import write_people
from hypothesis import given, settings

from hyperface import owned
from hyperface.data import store
from hyperface.data.planning import Options
from hyperface.data.sources.trees import folder as tree
from hyperface.errors import InputError
from hyperface.reproduce import command
from hyperface.runs import clean, evaluate, export, prepare, sweep, train
from hyperface.train import loop
from hyperface.train.checkpoint.manager import Checkpoints

LOOK_ALIKES = (
    "thesis.tex",
    "results.json.bak",
    "config.json.partial",
    ".lock",
    "evaluation_of_my_thesis/ch1.tex",
    "broken-4/notes.txt",
    "unfinished-thesis/ch1.tex",
    "99.orbax-checkpoint-tmp/model.bin",
    "best/model.bin",
    "hyperface-files.jsonl.old",
)
"""Names that a pattern would take for ours."""


def plant(folder, names=LOOK_ALIKES):
    """Puts files of a user into a folder; returns them with their bytes."""
    planted = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert not path.exists()
        path.write_bytes(f"somebody's {path}".encode())
        planted[path] = path.read_bytes()
    return planted


def plant_everywhere(root, outside, *, in_steps=True):
    """Plants in each folder below `root`, with a link to a folder outside."""
    planted = plant(outside, ["theirs.txt"])
    for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        if not in_steps and {"4", "8"} & set(folder.relative_to(root).parts):
            continue
        planted |= plant(folder)
        link = folder / "linked"
        link.symlink_to(outside)
        planted[link / "theirs.txt"] = planted[outside / "theirs.txt"]
    return planted


def assert_untouched(planted):
    for path, content in planted.items():
        assert path.read_bytes() == content, path


def refused(act, *args):
    """The message of the command's refusal, which is one short line."""
    with pytest.raises(InputError) as error:
        act(*args)
    message = str(error.value)
    assert "\n" not in message
    assert len(message.replace(str(args), "")) < 600
    return message


# --------------------------------------------------------------------------------------- the rule

NAMES = st.sampled_from(["a", "b", "a.partial", "b.partial", "sub/a", "sub/b", "sub", "sub/x/a"])
ACTIONS = st.sampled_from(["write", "remove", "clear", "plant", "link", "lock", "record", "copy"])


@settings(max_examples=200)
@given(steps=st.lists(st.tuples(ACTIONS, NAMES), max_size=25))
def test_no_order_of_writing_removing_and_planting_costs_a_foreign_byte(steps, tmp_path_factory):
    root, outside = tmp_path_factory.mktemp("rule") / "root", tmp_path_factory.mktemp("outside")
    planted = plant(outside, ["theirs.txt"])
    owned.adopt(root)
    for action, name in steps:
        path = root / name
        found = owned.read(path.parent)
        free = not os.path.lexists(path) and not (found and path.name in found.files)
        with contextlib.suppress(InputError, FileExistsError, NotADirectoryError):
            if action == "write":
                owned.write_text(path, "ours")
            elif action == "remove":
                owned.remove(path)
            elif action == "clear":
                owned.clear(root, keep_marker=True)
            elif action == "lock":
                with owned.locked(path.parent, "used"):
                    pass
            elif action == "record":
                with owned.recording(root):
                    owned.write_text(path, "ours")
            elif action == "copy":
                owned.remove_tree(path)
            elif free and action == "plant" and not path.parent.is_symlink():
                planted |= plant(root, [name])
            elif free and action == "link":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(outside)
        assert_untouched(planted)
    owned.clear(root)
    assert_untouched(planted)
    assert {p.name for p in outside.iterdir()} == {"theirs.txt"}


def test_files_of_a_library_that_fails_are_recorded(tmp_path):
    root = tmp_path / "root"
    owned.adopt(root)
    planted = plant(root, ["theirs.txt"])

    def half_written(error):
        with owned.recording(root):
            (root / "deeper").mkdir()
            (root / "deeper/half").write_text("ours")
            raise error

    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            half_written(error)
        owned.clear(root, keep_marker=True)
        assert not (root / "deeper").exists()
    assert_untouched(planted)


def test_what_is_ours_alone_goes_with_its_folders(tmp_path):
    root = tmp_path / "root"
    owned.adopt(root)
    for name in ("a", "sub/b", "sub/deeper/c", "far/away/d"):
        owned.write_text(root / name, name)
    owned.clear(root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"\xff\x00",
        b'{"format": "hyperface-folder", "version": 1, "kind": "run"}\n',
        b'{"format": "hyperface-folder", "version": 1, "kind": "run", "digest": "000000000000"}\n',
    ],
)
def test_a_marker_counts_only_with_its_digest(content, tmp_path):
    (tmp_path / owned.MARKER).write_bytes(content)
    assert owned.read(tmp_path) is None


def test_a_marker_of_another_version_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(owned, "VERSION", 2)
    owned.adopt(tmp_path, owned.RUN)
    monkeypatch.undo()
    owned._read.cache_clear()
    assert owned.read(tmp_path) is None


def test_a_line_cut_short_costs_that_line_alone(tmp_path):
    owned.write_text(tmp_path / "a", "a")
    owned.write_text(tmp_path / "b", "b")
    marker = tmp_path / owned.MARKER
    marker.write_bytes(marker.read_bytes() + b'{"file": "c", "dig')  # A kill, or a full disk.
    owned.write_text(tmp_path / "d", "d")
    assert owned.read(tmp_path).files == {"a", "b", "d"}


def test_a_damaged_line_makes_its_file_somebodys(tmp_path):
    """That errs on the safe side: the file stays."""
    owned.write_text(tmp_path / "a", "a")
    marker = tmp_path / owned.MARKER
    marker.write_bytes(marker.read_bytes().replace(b'"file": "a"', b'"file": "b"'))
    owned.clear(tmp_path)
    assert (tmp_path / "a").read_text() == "a"


@pytest.mark.parametrize("write", [owned.write_text, lambda path, text: owned.claim(path)])
def test_a_link_is_never_written_through(write, tmp_path):
    outside = tmp_path / "theirs.txt"
    outside.write_text("theirs")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/a").symlink_to(outside)
    assert "found a link" in refused(write, tmp_path / "ours/a", "ours")
    (tmp_path / "ours" / owned.MARKER).unlink(missing_ok=True)
    (tmp_path / "ours" / owned.MARKER).symlink_to(outside)
    refused(write, tmp_path / "ours/b", "ours")
    assert outside.read_text() == "theirs"


def test_a_tree_is_removed_without_the_notes_in_it_and_never_through_a_link(tmp_path):
    folder, outside = tmp_path / "checkpoints", tmp_path / "outside"
    owned.adopt(folder, owned.CHECKPOINTS)
    for path, real in ((folder / "4", folder / "4"), (folder / "8", outside)):
        owned.claim_tree(path)
        real.mkdir()
        (real / "_CHECKPOINT_METADATA").write_text("{}")
    (folder / "4/note.txt").write_text("mine")
    (folder / "8").symlink_to(outside)
    owned.remove_tree(folder / "4")
    owned.remove_tree(folder / "8")
    assert [path.name for path in (folder / "4").iterdir()] == ["note.txt"]
    assert (outside / "_CHECKPOINT_METADATA").is_file()


def test_the_folder_that_the_user_names_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    owned.write_text(tmp_path / "runs/a", "a")
    assert (tmp_path / "disk/a").read_text() == "a"


# ----------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def short(tiny_experiment):
    import dataclasses

    return dataclasses.replace(tiny_experiment, steps=8)


@pytest.fixture(scope="module")
def trained(short, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    loop.train(short, tiny_data, folder)
    owned.write_text(folder / "evaluation/evaluation.json", "{}")
    owned.write_text(folder / "figures/loss.png", "")
    return folder


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_leaves_what_the_user_put_into_its_folder(fresh, trained, short, tiny_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    planted = plant_everywhere(run, tmp_path / "outside", in_steps=not fresh)
    loop.train(short, tiny_data, run, fresh=fresh)
    assert_untouched(planted)
    assert fresh != (run / "evaluation/evaluation.json").exists()
    assert fresh != (run / "figures/loss.png").exists()


@pytest.mark.parametrize("name", ["notes.txt", "state/d/notes.txt"])
def test_a_checkpoint_with_a_file_of_the_user_is_not_deleted(
    name, trained, short, tiny_data, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    del before[run / owned.MARKER]  # It gets the name of the process that locks the folder.
    planted = plant(run / "checkpoints/8", [name])
    message = refused(lambda: loop.train(short, tiny_data, run, fresh=True))
    assert f"found {name}. Nothing was removed" in message
    assert_untouched(before | planted)


def test_a_fresh_run_leaves_nothing_of_the_old_one(trained, short, tiny_data, tmp_path):
    """Every file that training writes is recorded."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    owned.clear(run, keep_marker=True)
    assert [path.name for path in run.rglob("*")] == [owned.MARKER]


def test_a_step_with_a_file_of_the_user_is_not_rotated_away(random_run, tmp_path):
    folder, state = tmp_path / "checkpoints", random_run[1]
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.save(2, state, {})
        checkpoints.wait()
        planted = plant(folder / "1", ["notes.txt", "state/notes.txt"])
        for step in (3, 4, 5):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 4, 5]
    assert_untouched(planted)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ["777/model.bin", "8.orbax-checkpoint-tmp/model.bin", "777"])
def test_foreign_checkpoints_are_left_alone(name, fresh, trained, short, tiny_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    planted = plant(run / "checkpoints", [name])
    with contextlib.suppress(InputError):
        loop.train(short, tiny_data, run, fresh=fresh)
    assert_untouched(planted)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_links_are_not_followed_out_of_the_run(name, fresh, trained, short, tiny_data, tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(trained, run)
    shutil.move(run / name, tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", outside)
    planted = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    planted |= plant(outside, ["4/x", "77/model.bin", "5.orbax-checkpoint-tmp/x"])
    (run / name).symlink_to(outside)
    longer = run / "checkpoints" / "8"
    if name == "tensorboard":
        shutil.rmtree(longer)
    message = refused(lambda: loop.train(short, tiny_data, run, fresh=fresh))
    assert "found a link" in message
    assert_untouched(planted)


@pytest.mark.parametrize("fresh", [["--fresh"], []])
def test_a_foreign_project_is_refused_in_one_line(fresh, tiny_data, tmp_path):
    project = tmp_path / "project"
    names = ["config.json", "checkpoints/best/model.bin", "figures/paper.pdf", "results.json"]
    planted = plant(project, [*names, "evaluation_of_my_thesis/ch1.tex"])
    (project / "config.json").write_text('{"model_type": "bert"}')
    planted[project / "config.json"] = b'{"model_type": "bert"}'
    arguments = ["--workdir", str(project), "--data.name", "tiny", "--data-dir", str(tiny_data)]
    small = ["--data.batch-size", "16", "--steps", "8", "--optimizer.boundaries", "--compare"]
    small += ["--evaluation.folds", "4", "--evaluation.snapshots", "1"]
    message = refused(train.main, [*arguments, *small, *fresh])
    assert "expected an empty folder or a run of this version" in message
    assert "needs that version" in message
    assert "--fresh" not in message
    assert_untouched(planted)
    assert not (project / owned.MARKER).exists()


def test_a_name_that_the_run_will_need_is_refused_before_it_trains(short, tiny_data, tmp_path):
    run = tmp_path / "run"
    owned.adopt(run, owned.RUN)
    planted = plant(run, ["results.json"])
    assert "results.json: expected a free name" in refused(
        lambda: loop.train(short, tiny_data, run, fresh=True)
    )
    assert_untouched(planted)


# ----------------------------------------------------------------------------------- data sets


@pytest.fixture
def people(tmp_path):
    return write_people(tmp_path / "source", people=4, images=4)


def test_preparing_leaves_what_others_put_beside_a_data_set(people, tmp_path):
    data = tmp_path / "data"
    planted = plant(data / "people", [*LOOK_ALIKES, "unfinished-x/dataset_info.json"])
    first = store.prepare(tree(people), data / "people")
    planted |= plant(data / "people", ["1.0.1/theirs.txt"])
    fewer = Options(held_out=1)
    second = store.prepare(tree(people), data / "people", fewer, replace=True)
    assert not first.exists()
    assert second.name == "1.0.2"
    assert_untouched(planted)


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "manifest.json.partial"])
def test_replace_refuses_a_version_with_a_file_of_the_user(name, people, tmp_path):
    version = store.prepare(tree(people), tmp_path / "people")
    planted = plant(version, [name])
    message = refused(
        lambda: store.prepare(tree(people), tmp_path / "people", Options(held_out=1), replace=True)
    )
    assert f"found {name}" in message
    assert_untouched(planted)
    assert (version / "dataset_info.json").exists()


def test_replace_refuses_a_version_that_is_not_marked(people, tmp_path):
    version = store.prepare(tree(people), tmp_path / "people")
    (version / owned.MARKER).unlink()
    before = {p: p.read_bytes() for p in version.iterdir()}
    message = refused(
        lambda: store.prepare(tree(people), tmp_path / "people", Options(held_out=1), replace=True)
    )
    assert "Move it elsewhere" in message
    assert_untouched(before)


def interrupted(people, folder, monkeypatch, options=Options()):  # noqa: B008  Frozen.
    monkeypatch.setattr(store, "_add_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.prepare(tree(people), folder, options)
    monkeypatch.undo()
    (work,) = (path for path in folder.glob("unfinished-*") if path.is_dir())
    return work


def test_an_unfinished_data_set_of_another_source_goes_file_by_file(people, tmp_path, monkeypatch):
    other = interrupted(people, tmp_path / "people", monkeypatch, Options(held_out=1))
    planted = plant(other, ["notes.txt"])
    store.prepare(tree(people), tmp_path / "people")
    assert_untouched(planted)
    assert sorted(path.name for path in other.iterdir()) == [owned.MARKER, "notes.txt"]


@pytest.mark.parametrize("make", ["folder", "link"])
def test_a_folder_of_the_unfinished_name_is_refused(make, people, tmp_path, monkeypatch):
    work = interrupted(people, tmp_path / "people", monkeypatch)
    shutil.move(work, tmp_path / "elsewhere")
    if make == "folder":
        planted = plant(work, ["theirs.txt"])
    else:
        planted = {p: p.read_bytes() for p in (tmp_path / "elsewhere").iterdir()}
        work.symlink_to(tmp_path / "elsewhere")
    refused(lambda: store.prepare(tree(people), tmp_path / "people"))
    assert_untouched(planted)


def test_inspect_overwrites_its_own_pictures_only(tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    version = tmp_path / "data/tiny/1.0.0"
    arguments = ["tiny", "--inspect", "--data-dir", str(tmp_path / "data")]
    prepare.main(arguments)
    prepare.main(arguments)
    (version / "train-faces.png").unlink()
    owned.clear(version)
    planted = plant(version, ["train-faces.png"])
    for name in ("manifest.json", "dataset_info.json", "features.json", "metadata.json"):
        shutil.copy(tiny_data / "tiny/1.0.0" / name, version / name)
    for path in (tiny_data / "tiny/1.0.0").glob("*.array_record*"):
        shutil.copy(path, version / path.name)
    assert "train-faces.png" in refused(prepare.main, arguments)
    assert_untouched(planted)


# ------------------------------------------------------------------------------------- results


@pytest.fixture
def run(random_run, tmp_path):
    return shutil.copytree(random_run[0], tmp_path / "run")


@pytest.mark.parametrize("name", clean.RESULTS)
def test_cleaning_refuses_a_name_that_is_taken(name, run, tiny_data, tmp_path):
    planted = plant(tmp_path / "out", [name])
    common = ["tiny", "--run", str(run), "--out", str(tmp_path / "out")]
    assert name in refused(clean.main, [*common, "--data-dir", str(tiny_data)])
    assert_untouched(planted)


@pytest.mark.parametrize("name", ["embedder.safetensors", "embedder.json"])
def test_exporting_refuses_a_name_that_is_taken(name, run, tmp_path):
    planted = plant(tmp_path / "out", [name])
    arguments = [str(run), "--out", str(tmp_path / "out"), "--format", "safetensors"]
    assert name in refused(export.main, arguments)
    assert_untouched(planted)


@pytest.mark.parametrize("command", ["own", "protocol"])
def test_evaluating_refuses_a_name_that_is_taken(command, run, tiny_data, tmp_path):
    folder = run if command == "own" else run / "evaluation"
    planted = plant(folder, ["evaluation.json"])
    more = ["--protocol", "pairs", "--dataset", "tiny", "--pairs", str(tmp_path / "pairs.csv")]
    (tmp_path / "pairs.csv").write_text("first,second,same\n")
    arguments = [str(run), "--data-dir", str(tiny_data), *(more if command == "protocol" else [])]
    assert "evaluation.json" in refused(evaluate.main, arguments)
    assert_untouched(planted)


def test_a_sweep_refuses_a_name_that_is_taken(tiny_data, tmp_path):
    planted = plant(tmp_path / "out", ["sweep.csv"])
    arguments = ["orl-ring", "loss.ring.weight=0.1", "--out", str(tmp_path / "out"), "--"]
    with pytest.raises(InputError, match=r"sweep\.csv"):
        sweep.main([*arguments, "--data-dir", str(tiny_data)])
    assert_untouched(planted)


def test_a_reproduction_refuses_a_name_that_is_taken(tmp_path):
    planted = plant(tmp_path / "out", ["normface/report.html"])
    arguments = ["normface", "--only", "proposition-1", "--out", str(tmp_path / "out")]
    assert "report.html" in refused(command.main, arguments)
    assert_untouched(planted)


@pytest.mark.parametrize("command", ["clean", "export"])
def test_results_go_beside_the_files_of_others(command, run, tiny_data, tmp_path):
    """Given twice, a command overwrites its own results and nothing else."""
    planted = plant_everywhere(tmp_path / "out", tmp_path / "outside") if command else {}
    for _ in range(2):
        if command == "clean":
            common = ["tiny", "--run", str(run), "--out", str(tmp_path / "out")]
            clean.main([*common, "--data-dir", str(tiny_data)])
        else:
            export.main([str(run), "--out", str(tmp_path / "out"), "--format", "safetensors"])
    assert_untouched(planted)
    record = json.loads((tmp_path / "out" / owned.MARKER).read_text().splitlines()[0])
    assert (record["format"], record["version"]) == (owned.FORMAT, owned.VERSION)
