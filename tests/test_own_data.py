"""Photos of one's own: an experiment from the data set, and next steps that can be pasted."""

import errno
import json
import shlex

import numpy as np
import pytest
from conftest import write_people

from hyperface import owned
from hyperface.config.experiment import check
from hyperface.config.own_data import Counts, experiment_for
from hyperface.errors import InputError
from hyperface.runs import evaluate, next_steps, own_data, prepare, train
from hyperface.runs.prepare import Prepare

FACE = (112, 96, 3)


def next_command(shown, subcommand):
    """The words of the last line that proposes a subcommand."""
    start = f"hyperface {subcommand} "
    line = [line for line in shown.splitlines() if start in line][-1]
    return shlex.split(line[line.index(start) :])[2:]


# --------------------------------------------------------------------------------- the experiment


@pytest.mark.parametrize(
    ("train_counts", "batch", "steps"),
    [
        ([5] * 30, 32, 200),  # 150 images: 200 steps are 43 passes.
        ([10] * 30, 64, 200),
        ([4] * 4, 8, 200),
        ([5] * 1000, 64, 3130),  # 40 passes of 5,000 images.
        ([20] * 1000, 128, 4420),  # 28.3 passes of 20,000.
        ([100] * 10_000, 256, 41550),  # 10.6 passes of a million.
    ],
)
def test_batch_and_steps_grow_with_the_images(train_counts, batch, steps):
    found = experiment_for("mine", Counts(FACE, train_counts, [5] * 10))
    assert (found.data.batch_size, found.steps) == (batch, steps)
    assert found.optimizer.boundaries == (int(0.6 * steps), int(0.85 * steps))
    assert found.name == found.data.name == "mine"
    assert steps // 5 <= found.checkpoint_every <= steps // 4
    assert found.loss.softmax.normalize == "both"
    assert found.compare == ()
    check(found)


def test_folds_and_shift_follow_from_the_data():
    assert experiment_for("a", Counts(FACE, [5] * 30, [5] * 10)).evaluation.folds == 10
    assert experiment_for("a", Counts(FACE, [5] * 30, [2] * 3)).evaluation.folds == 3
    assert experiment_for("a", Counts(FACE, [5] * 30, [5] * 10)).data.shift == 4
    assert experiment_for("a", Counts((16, 14, 3), [5] * 30, [5] * 10)).data.shift == 0
    digits = experiment_for("d", Counts((28, 28, 1), [600] * 10, [100] * 10, same_people=True))
    assert digits.evaluation.protocol == "classification"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (Counts(FACE, [9, 0], [5, 5]), "at least two people in its split 'train', found 1"),
        (Counts(FACE, [5] * 12, []), "found 0 people .* again with --held-out 3 --replace"),
        (Counts(FACE, [5] * 12, [1, 1, 1]), "found 3 people with 3 images"),
        (Counts(FACE, [9] * 99, [10] * 2000), "at most 12,000 .* with --held-out 1200 --replace"),
    ],
)
def test_data_that_cannot_be_trained_or_scored_says_what_to_do(counts, message):
    with pytest.raises(InputError, match=f"^mine: expected .*{message}"):
        experiment_for("mine", counts)


def test_names_are_experiments_files_and_data_sets(tiny_data, tmp_path):
    assert own_data.load("orl-ring").name == "orl-ring"
    found = own_data.load("tiny", tiny_data)
    assert (found.name, found.steps, found.data.batch_size) == ("tiny", 240, 8)
    assert "'tiny': 6 people to train, 4 to verify" in own_data.run_card("tiny", tiny_data)
    assert "from the 48 images" in own_data.run_card("tiny", tiny_data)
    with pytest.raises(InputError, match=r"unknown experiment 'tinny'. Did you mean 'tiny'\?"):
        own_data.load("tinny", tiny_data)
    with pytest.raises(InputError, match=r"unknown experiment '../tiny'"):
        own_data.load("../tiny", tiny_data)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--data-dir", "a b"], "a b"),
        (["--steps", "3", "--data_dir=c"], "c"),
        (["--data-dir"], None),
        (["--data.name", "x"], None),
    ],
)
def test_the_data_folder_is_known_before_options_are_parsed(args, expected):
    found = own_data.data_dir_in(args)
    assert (None if found is None else str(found)) == expected


# ------------------------------------------------------------------------------ from step to step


def test_each_next_step_can_be_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYPERFACE_DATA_DIR")
    write_people(tmp_path / "my photos", people=32, images=3)
    (tmp_path / "my photos/person3/0.png").write_bytes(b"no picture")
    prepare.main(["my photos", "--out", "mine", "--data-dir", "my data"])
    shown = capsys.readouterr().out
    assert "person3/0.png: expected an image" in shown
    command = next_command(shown, "train")
    assert command == ["mine", "--data-dir", "my data"]

    few = "--steps 4 --log-every 2 --checkpoint-every 2 --model.name sphereface-mini"
    short = [*few.split(), "--optimizer.boundaries"]
    train.main([*command, *short])
    shown = capsys.readouterr().out
    results = json.loads((tmp_path / "runs/mine/results.json").read_text())
    assert set(results["results"]) == {"raw pixels", "mine"}
    assert results["settings"]["experiment"]["data"]["batch_size"] == 16
    scored = [line for line in shown.splitlines() if line.startswith("Score the checkpoint")]
    evaluate.main(next_command(scored[0], "evaluate"))
    assert "mine, step 4" in capsys.readouterr().out
    again = next_command(shown, "evaluate")
    assert again == ["runs/mine", "--protocol", "folder", "--dataset", "mine", *command[1:]]

    evaluate.main([*again, "--bootstrap", "5"])
    shown = capsys.readouterr().out
    assert next_command(shown, "verify") == ["ONE.jpg", "OTHER.jpg", "--run", "runs/mine"]
    assert (tmp_path / "runs/mine/evaluation/calibration.json").exists()
    train.main([*command, *short])  # The same command goes on with the run.


def test_with_few_people_the_next_step_holds_some_of_them_out(tmp_path, capsys):
    root = write_people(tmp_path / "a 'few'", people=8, images=3)
    options = ["--out", "few", "--data-dir", str(tmp_path / "data"), "--channels", "1"]
    prepare.main([str(root), *options])
    command = next_command(capsys.readouterr().out, "prepare")
    assert command[0] == str(root)
    prepare.main(command)
    shown = capsys.readouterr().out
    assert "(test): 6 images of 2 identities, 16 x 14 x 1" in shown
    assert next_command(shown, "train")[0] == "few"


def test_options_become_the_words_that_they_came_from():
    options = Prepare("my photos", out="mine", detect=True, held_out=5, size="112x112")
    words = next_steps.words(options, "source")
    assert words == [
        "my photos", "--out", "mine", "--held-out", "5", "--detect", "--size", "112x112",
    ]  # fmt: skip
    assert next_steps.command("prepare", *words).startswith("hyperface prepare 'my photos' --out")


# ------------------------------------------------------------------ lists of any length, read-only


@pytest.fixture
def listed(tmp_path):
    """21 same and 18 different pairs of `tiny`."""
    rng = np.random.default_rng(2)
    lines = ["first,second,same"]
    for number in range(39):
        one = 6 + number % 4
        other = one if number < 21 else 6 + (one - 5) % 4
        i, j = rng.permutation(8)[:2]
        lines.append(f"person{one}/{i}.png,person{other}/{j}.png,{int(number < 21)}")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def score_list(path, tiny_data, out, *options):
    command = ["pixels", "--protocol", "pairs", "--dataset", "tiny", "--pairs", str(path)]
    folders = ["--data-dir", str(tiny_data), "--out", str(out), "--preset", "plain"]
    evaluate.main([*command, *folders, *options])
    return json.loads((out / "evaluation.json").read_text())["protocols"]["pairs"]


def test_a_list_of_any_counts_is_scored_in_the_folds_that_are_asked_for(
    listed, tiny_data, tmp_path
):
    usual = score_list(listed, tiny_data, tmp_path / "out")
    assert "39 pairs (21 same) of" in usual["steps"][3]
    assert len(usual["details"]["fold accuracies"]) == 10
    three = score_list(listed, tiny_data, tmp_path / "out", "--folds", "3")
    assert len(three["details"]["fold accuracies"]) == 3
    few = listed.with_name("few.csv")
    lines = listed.read_text().splitlines()
    few.write_text("\n".join([*lines[:5], *lines[22:25]]) + "\n")
    assert len(score_list(few, tiny_data, tmp_path / "out")["details"]["fold accuracies"]) == 3
    with pytest.raises(InputError, match="expected different pairs in 4 folds, found 3 pairs"):
        score_list(few, tiny_data, tmp_path / "out", "--folds", "4")
    few.write_text("\n".join([lines[0], lines[1], lines[2], lines[22]]) + "\n")
    with pytest.raises(InputError, match="expected different pairs in 2 folds, found 1 pairs"):
        score_list(few, tiny_data, tmp_path / "out")
    alone = ["first,second,same", *(line for line in lines[1:] if line.endswith("1"))]
    few.write_text("\n".join(alone) + "\n")
    with pytest.raises(InputError, match=r"expected different pairs in .* folds, found 0 pairs"):
        score_list(few, tiny_data, tmp_path / "out")
    named = [f"{line},{number % 2}" for number, line in enumerate(lines[1:])]
    few.write_text("\n".join(["first,second,same,fold", *named]) + "\n")
    with pytest.raises(InputError, match=r"--folds: expected none with .*few.csv, which names"):
        score_list(few, tiny_data, tmp_path / "out", "--folds", "2")


def test_intervals_of_a_list_are_a_column(listed, tiny_data, tmp_path, capsys):
    found = score_list(listed, tiny_data, tmp_path / "out", "--bootstrap", "20")
    assert len(found["intervals"]) == 2
    assert "95 % over people" in capsys.readouterr().out


def test_figures_of_a_read_only_folder_are_printed(
    listed, tiny_data, tmp_path, monkeypatch, capsys
):
    def refuse(folder, *_):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    for name in ("adopt", "write_text", "write_bytes"):
        monkeypatch.setattr(owned, name, refuse)
    message = rf"write in {tmp_path}/out, found: Read-only.*figures are above; .* by --out"
    with pytest.raises(InputError, match=message):
        score_list(listed, tiny_data, tmp_path / "out")
    assert "accuracy" in capsys.readouterr().out
