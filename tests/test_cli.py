"""The commands end to end: train, kill, go on, evaluate; and every mistake is one line."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import write_people
from PIL import Image

from hyperface import experiments
from hyperface.data import datasets
from hyperface.errors import InputError
from hyperface.runs import evaluate, prepare, process_settings, program, sweep, train
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.interrupt import Interrupted
from hyperface.train.run_folder import locked_run_folder

SMALL = [
    "--steps", "6", "--log-every", "1", "--checkpoint-every", "2",
    "--data.name", "tiny", "--data.batch-size", "16", "--model.feature-dim", "8",
    "--optimizer.learning-rate", "0.02", "--evaluation.folds", "4",
    "--evaluation.snapshots", "2", "--evaluation.snapshot-every", "3",
]  # fmt: skip
BESIDE = ["orl-normface", *SMALL, "--compare", "orl-ring"]


def command(module, *args, **options):
    return subprocess.run(
        [sys.executable, "-m", "hyperface", module, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """A small run by the command, beside one other."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    train.main([*BESIDE, "--data-dir", str(tiny_data), "--workdir", str(folder)])
    return folder


def test_training_ends_with_a_report(run):
    results = json.loads((run / "results.json").read_text())
    methods = list(results["results"])
    assert methods[0] == "raw pixels"
    assert methods[1:] == ["orl-normface", "orl-ring"]
    for figures in results["results"].values():
        assert set(figures) == {
            "accuracy",
            "accuracy_standard_error",
            "tar_at_far_0.01",
            "tar_at_far_0.001",
        }
    assert results["training"]["orl-normface"]["softmax_bound"] > 0
    names = {path.stem for path in (run / "figures").glob("*.png")}
    similarities = {f"similarities-{name}" for name in ("raw-pixels", "orl-normface", "orl-ring")}
    of_training = {"loss", "scale", "distortion", "training-norms", "norms"}
    assert names == {"roc"} | similarities | of_training
    assert [len(shots) for shots in results["snapshots"].values()] == [2, 2]
    page = (run / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert "Mean of the last 2 snapshots" in page
    assert "Hardest pairs" in page
    assert "data:image/jpeg;base64," in page
    assert "Proposition 2" in page
    # 384 different pairs support a FAR of 1 %, and none of 0.1 %.
    few = " (too few pairs: at no false accept)"
    assert f"TAR at FAR 0.1 %{few}" in page
    assert f"TAR at FAR 1 %{few}" not in page
    assert page.count(f"TAR at FAR 0.1 %{few}") == 2
    assert results["FARs with too few pairs"]["orl-normface"] == [0.001]


def test_a_run_starts_from_another_runs_backbone(run, tiny_data, tmp_path, capsys):
    options = ["orl-ring", *SMALL, "--compare", "--data-dir", str(tiny_data)]
    tuned = ["--init-from", str(run), "--optimizer.freeze-backbone", "6"]
    folder = ["--workdir", str(tmp_path / "tuned")]
    train.main([*options, *tuned, *folder])
    assert "a run of this library" in capsys.readouterr().out
    results = json.loads((tmp_path / "tuned/results.json").read_text())["results"]
    # Frozen for all of its steps, the backbone scores as it did before, and as the run's last step.
    assert results["before"] == results["orl-ring"]
    first = json.loads((run / "results.json").read_text())["results"]["orl-normface"]
    assert results["before"] == first
    with pytest.raises(InputError, match=r"init_from was .*is now None"):
        train.main([*options, "--optimizer.freeze-backbone", "6", *folder])
    other = ["--model.feature-dim", "9", "--workdir", str(tmp_path / "other")]
    with pytest.raises(InputError, match="model 'sphereface-mini'"):
        train.main([*options, "--init-from", str(run), *other])
    assert not (tmp_path / "other").exists()


def test_a_run_that_diverged_says_so_until_it_goes_on(tiny_data, tmp_path):
    options = [
        "orl-softmax",
        *SMALL,
        "--data-dir",
        str(tiny_data),
        "--workdir",
        str(tmp_path / "r"),
    ]
    wild = ["--optimizer.learning-rate", "1e38"]
    with pytest.raises(SystemExit) as ended:
        train.main([*options, *wild])
    assert ended.value.code == program.EXIT_DIVERGED
    said = tmp_path / "r/diverged.json"
    assert json.loads(said.read_text())["message"].startswith("step ")
    with pytest.raises(InputError, match="holds another run"):
        train.main([*options, "--seed", "1"])
    assert said.exists()
    meta = json.loads((tmp_path / "r/config.json").read_text())
    with locked_run_folder(tmp_path / "r", meta):
        assert not said.exists()


def test_the_checkpoint_scores_again_to_the_same_figures(run, tiny_data, capsys):
    evaluate.main([str(run), "--data-dir", str(tiny_data)])
    found = json.loads((run / "evaluation.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert found["figures"] == results["results"]["orl-normface"]
    shown = capsys.readouterr().out
    assert "orl-normface, step 6" in shown
    assert found["steps"][0] == "orl-normface at step 6"
    for step in found["steps"]:
        assert f"- {step}\n" in shown
    for words in ("as they came", "(pixel - 127.5) / 128", "threshold at a FAR", "merged by sum"):
        assert words in shown
    settings = found["settings"]
    assert settings["versions"]["jax"] == version("jax")
    assert len(settings["features"]) == 16
    assert settings["data"]["examples"] == 32


def test_the_best_checkpoint_can_be_asked_for(run, tiny_data, tmp_path):
    evaluate.main([str(run), "--data-dir", str(tiny_data), "--checkpoint", "best"])
    step = json.loads((run / "evaluation.json").read_text())["step"]
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        scores = {step: checkpoints.meta(step).get("score") for step in checkpoints.steps()}
    # A checkpoint off the run's interval has no score.
    known = {step: score for step, score in scores.items() if score is not None}
    assert step == min(known, key=known.get)
    with pytest.raises(InputError, match="--checkpoint best: expected checkpoints with a score"):
        evaluate.main([str(tmp_path), "--checkpoint", "best"])


def test_what_is_compiled_is_kept_for_this_kind_of_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # What is set is taken back after the test: other tests' programs start with this environment.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "-1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "given")
    process_settings.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "given"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE")
    process_settings.keep_compiled()
    folder = Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "hyperface-compiled"
    compiling = "import warnings; warnings.simplefilter('error'); import jax; jax.jit(abs)(1.0)"
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    subprocess.run([sys.executable, "-c", compiling], check=True)
    assert list(folder.glob("jit_abs*-cache"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
@pytest.mark.parametrize(
    ("environment", "keeps"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cuda,cpu"}, False),
        ({"MALLOC_ARENA_MAX": "8"}, False),
    ],
)
def test_memory_is_kept_from_step_to_step(environment, keeps):
    """Pages that the kernel maps for a block which a thread of its own takes again and again."""
    code = (
        "import resource, threading\n"
        "from hyperface.runs import process_settings\n"
        "process_settings.keep_memory()\n"
        "def steps():\n"
        "    for _ in range(10):\n"
        "        bytearray(2**26)[::4096] = bytes(2**14)\n"
        "threads = threading.Thread(target=steps)\n"
        "threads.start()\n"
        "threads.join()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)\n"
    )
    names = ("JAX_PLATFORMS", "GLIBC_TUNABLES", "LD_PRELOAD")
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in names and not name.startswith("MALLOC_")
    }
    clean |= {"JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, check=True, env=clean, stdout=subprocess.PIPE)
    assert (int(found.stdout) < 4 * 2**26 // 4096) == keeps


def test_another_mirror_merge_can_be_asked_for(run, tiny_data):
    evaluate.main([str(run), "--data-dir", str(tiny_data), "--mirror", "none", "--checkpoint", "4"])
    found = json.loads((run / "evaluation.json").read_text())
    assert (found["step"], found["mirror"]) == (4, "none")


@pytest.mark.slow
def test_a_killed_run_ends_with_the_figures_of_an_unbroken_one(run, tiny_data, tmp_path):
    """SIGKILL as soon as a checkpoint stands, then the same command again."""
    folder = tmp_path / "run"
    arguments = [*BESIDE, "--data-dir", str(tiny_data), "--workdir", str(folder)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperface", "train", *arguments],
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    try:
        until = time.monotonic() + 240
        while not list((folder / "checkpoints").glob("[0-9]/commit_success.txt")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < until, "no checkpoint appeared"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    train.main(arguments)
    for name in ("results.json", "metrics.jsonl"):
        assert (folder / name).read_text() == (run / name).read_text()


@pytest.mark.parametrize("words", [["--help"], ["cluster", "slurm"]])
def test_a_reader_of_the_help_that_has_ended_is_no_error(words):
    unread, written = os.pipe()
    os.close(unread)
    command = [sys.executable, "-m", "hyperface", *words]
    found = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, check=False)
    os.close(written)
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_folder_is_prepared_by_command(tmp_path, capsys):
    root = write_people(tmp_path / "faces", people=3, images=2)
    (root / "person0/9.png").write_bytes(b"nothing")
    data_dir = tmp_path / "data"
    arguments = [str(root), "--out", "mine", "--held-out", "1", "--data-dir", str(data_dir)]
    prepare.main(arguments)
    shown = capsys.readouterr().out
    assert "(train): 4 images of 2 identities, 16 x 14 x 3" in shown
    assert "(test): 2 images of 1 identities" in shown
    assert "person0/9.png: expected an image (JPEG, " in shown
    assert "found bytes starting b'nothing'" in shown
    assert (data_dir / "mine/1.0.0/dataset_info.json").exists()
    prepare.main([str(root), "--out", "all", "--held-out", "all", "--data-dir", str(data_dir)])
    assert "(test): 6 images of 3 identities" in capsys.readouterr().out
    (tmp_path / "people.txt").write_text("person1\n")
    options = ["--test-people", str(tmp_path / "people.txt"), "--data-dir", str(data_dir)]
    prepare.main([str(root), "--out", "named", *options])
    assert '"test": [\n   "person1"' in (data_dir / "named/1.0.0/manifest.json").read_text()


def test_prepare_says_who_is_held_out_which_people_are_meant_and_what_is_left_out(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    root = write_people(tmp_path / "faces/train", people=31, images=1)
    (root / "person0/.x").mkdir()
    (root / "person0/.x/1.png").write_bytes(b"x")
    (root / "notes.txt").write_text("text")
    data = ["--data-dir", "~/data"]
    prepare.main(["~/faces", "--out", "mine", *data])
    shown = capsys.readouterr().out
    assert "test split: the last 10 people, a tenth and at least 10. --held-out N" in shown
    assert "(test): 10 images of 10 identities" in shown
    assert "person0/.x/: a hidden or service folder with 1 files" in shown
    assert "train/notes.txt: not an image" in shown
    assert (tmp_path / "data/mine/1.0.0/manifest.json").exists()
    prepare.main([str(root), "--out", "few", "--keep", str(_kept(tmp_path)), *data])
    assert "test split: nobody, of fewer than 30 people" in capsys.readouterr().out
    (root / "person1/odd").mkdir()
    (root / "person1/0.png").replace(root / "person1/odd/0.png")
    around = write_people(tmp_path / "group/a", people=2, images=1).parent
    write_people(around / "b", people=3, images=1)
    with pytest.raises(InputError, match="--identity-level"):
        prepare.main([str(around), "--out", "two", *data])
    prepare.main([str(around), "--out", "two", "--identity-level", "1", *data])
    assert "(train): 5 images of 2 identities" in capsys.readouterr().out


def _kept(folder):
    """A list of images as Windows' Notepad saves it."""
    path = folder / "keep.txt"
    path.write_bytes("\ufeffperson0/0.png\r\nperson1/0.png\r\n".encode())
    return path


def test_every_path_of_a_command_may_start_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    options = evaluate.Evaluate(Path("~/run"), distractors="~/d.npz", noises=(Path("~/n"),))
    found = program.with_home(options)
    assert found.source == Path("/home/ann/run")
    assert (found.distractors, found.noises) == ("/home/ann/d.npz", (Path("/home/ann/n"),))
    nobody = evaluate.Evaluate(Path("~no-such-user/x"))
    assert program.with_home(nobody) == nobody


def test_faces_are_aligned_by_a_file_of_landmarks_and_looked_at(tmp_path, capsys):
    root = write_people(tmp_path / "photos", people=2, images=2, shape=(150, 130, 3))
    points = "35,60,75,60,55,80,40,105,72,105"
    lines = [f"person{p}/{i}.png,{points}\n" for p in range(2) for i in range(2)]
    (tmp_path / "points.csv").write_text(
        "file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy\n" + "".join(lines[1:])
    )
    data = ["--data-dir", str(tmp_path / "data")]
    given = ["--landmarks", str(tmp_path / "points.csv")]
    prepare.main([str(root), "--out", "mine", *given, "--size", "112x96", *data])
    shown = capsys.readouterr().out
    aligned = "aligned to 112 x 96 by the landmarks of points.csv"
    assert f"(train): 3 images of 2 identities, 112 x 96 x 3, {aligned}" in shown
    split = datasets.open_split("mine", "train", tmp_path / "data")
    assert split.step == f"3 images of mine/1.0.0, {aligned}"
    assert "person0/0.png: no landmarks in points.csv" in shown
    prepare.main([str(root), "--out", "grey", *given, "--size", "144x144", *data])
    assert "144 x 144 x 1" in capsys.readouterr().out
    prepare.main(["mine", "--inspect", *data])
    assert "3 images of 2 identities" in capsys.readouterr().out
    with Image.open(tmp_path / "data/mine/1.0.0/train-faces.png") as sheet:
        assert sheet.width > 3 * 96
    assert (tmp_path / "data/mine/1.0.0/train-images-per-identity.png").exists()
    prepare.main([str(root), "--out", "usual", *given, *data])
    assert "112 x 96 x 3" in capsys.readouterr().out
    with pytest.raises(InputError, match="expected a prepared data set 'x'"):
        prepare.main(["x", "--inspect", *data])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "--out: expected a name of letters"),
        (["x", "--out", "../../out"], "expected a name of letters"),
        (["nowhere", "--out", "x"], "found nothing at nowhere"),
        (["orl", "--root", "5"], "orl: expected no option for paths"),
        ([".", "--out", "x", "--kind", "foldr"], "Did you mean 'folder'?"),
        ([".", "--out", "x", "--kind", "folder", "--image", "y"], "no option --image"),
        (["orl", "--keep", "none.txt"], "none.txt: expected a file of text, found none"),
    ],
)
def test_wrong_prepare_options_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        prepare.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--evaluation.folds", "500"], "at least 500 pairs of each kind"),
        (["--data.test-split", "validation"], "unknown split"),
    ],
)
def test_what_could_not_be_scored_is_refused_before_training(
    arguments, message, tiny_data, tmp_path
):
    run = tmp_path / "run"
    common = ["--data-dir", str(tiny_data), "--workdir", str(run)]
    with pytest.raises(InputError, match=message):
        train.main(["orl-normface", *SMALL, *arguments, *common])
    assert not run.exists()


def test_a_checkpoint_that_is_not_there_is_refused(run):
    with pytest.raises(InputError, match="found steps: 3, 4, 6"):
        evaluate.main([str(run), "--checkpoint", "5"])


def test_a_run_on_eight_devices_is_scored_on_one(run, tiny_data):
    """Figures may differ by rounding between device counts, not by more."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    scored = command("evaluate", run, "--data-dir", tiny_data, env=environment)
    assert scored.returncode == 0, scored.stderr
    found = json.loads((run / "evaluation.json").read_text())["figures"]
    expected = json.loads((run / "results.json").read_text())["results"]["orl-normface"]
    assert found == pytest.approx(expected, abs=0.02)


def test_the_readmes_example_runs():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    example, *_ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert np.isfinite(float(shown.stdout))


def test_the_list_names_every_experiment(capsys):
    train.main(["--list"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in experiments.names())


@pytest.mark.parametrize("module", ["train", "evaluate", "prepare"])
def test_help_is_useful(module):
    shown = command(module, "--help")
    assert shown.returncode == 0
    assert f"hyperface {module}" in shown.stdout
    assert "--data-dir" in shown.stdout


@pytest.mark.parametrize(
    ("module", "rare"),
    [
        (train, "--loss.margin-softmax.scale"),
        (prepare, "--label"),
        (evaluate, "--gammas"),
    ],
)
def test_help_shows_what_people_use_and_where_the_rest_is(module, rare, capsys):
    shown = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            module.main([option])
        assert ended.value.code == 0
        shown[option] = capsys.readouterr().out
    assert "All of them: hyperface" in shown["--help"]
    assert rare not in shown["--help"]
    assert rare in shown["--help-all"]
    for name in module.MAIN_OPTIONS:
        option = "--" + name.replace("_", "-")
        assert name == "source" or option in shown["--help"]
    common, known = (
        set(re.findall(r"^\W*(--[a-z][\w.-]*)", text, re.MULTILINE)) for text in shown.values()
    )
    assert common < known
    assert len(common) <= 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["orl-normfce"], "Did you mean 'orl-normface'?"),
        (["--optimizer.learning-rat", "1"], "--optimizer.learning-rate"),
        (["--steps", "many"], "invalid"),
        (["--loss.softmax.normalize", "none"], "needs normalised features"),
        (["--checkpoint-every", "7"], "multiple of log-every"),
        (["--data.name", "none", "--data-dir", "{tmp}"], "found nothing"),
    ],
)
def test_mistakes_are_one_message_with_status_2(arguments, message, tmp_path):
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    failed = command("train", *arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert message in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "runs").exists()


def test_evaluating_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder of a run with checkpoints, found none"):
        evaluate.main([str(tmp_path)])


def test_comparing_with_itself_is_refused(tiny_data, tmp_path):
    with pytest.raises(InputError, match="found 'orl-normface' itself"):
        train.main(
            ["orl-normface", *SMALL, "--compare", "orl-normface", "--data-dir", str(tiny_data),
             "--workdir", str(tmp_path / "run")]
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("more", "status"), [([], 0), (["--exit-on-preemption", "143"], 143)])
def test_a_preemption_between_steps_is_said_and_has_its_status(more, status, monkeypatch, capsys):
    """At the start, while scoring, between two runs: there is no step to finish."""

    def scoring(tasks):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except Exception:  # As something under way that goes on after a failure of its own.
            pytest.fail("taken for a failure")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # Sent to the group, and passed on.

    monkeypatch.setattr(train, "plan", lambda options: [])
    monkeypatch.setattr(train, "run", scoring)
    monkeypatch.setattr(sweep, "run", lambda options, planned: scoring(planned))
    swept = ["orl-ring", "loss.ring.weight=0", *(["--", *more] if more else [])]
    before = signal.getsignal(signal.SIGTERM)
    for module, arguments in ((train, ["orl-softmax", *more]), (sweep, swept)):
        try:
            with pytest.raises(SystemExit) as ended:
                module.main(arguments)
            os.kill(os.getpid(), signal.SIGTERM)  # While the program ends.
        finally:
            signal.signal(signal.SIGTERM, before)
        assert ended.value.code == status
        said = capsys.readouterr().err
        assert "SIGTERM: stopped between two steps. The same command continues" in said


def test_sigterm_does_what_it_did_after_the_command(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(train, "plan", lambda options: [])
    monkeypatch.setattr(train, "run", lambda tasks: None)
    train.main(["orl-softmax"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 0)])
def test_a_stopped_training_within_any_command_is_a_line(name, status, capsys):
    """As of hyperface reproduce, which trains small nets itself."""

    def stopped(args):
        raise Interrupted(3, name)

    with pytest.raises(SystemExit) as ended:
        program.run(stopped)
    assert ended.value.code == status
    line = f"stopped by {name}: step 3 is saved. The same command goes on from it.\n"
    assert capsys.readouterr().err == line


def test_a_preempted_training_has_the_status_that_is_wanted(monkeypatch):
    def stopped(tasks):
        raise Interrupted(3, "SIGTERM")

    monkeypatch.setattr(train, "plan", lambda options: [])
    monkeypatch.setattr(train, "run", stopped)
    with pytest.raises(SystemExit) as ended:
        train.main(["orl-softmax", "--exit-on-preemption", "143"])
    assert ended.value.code == 143
    with pytest.raises(InputError, match="exit-on-preemption: expected a status from 0 to 255"):
        train.main(["orl-softmax", "--exit-on-preemption", "256"])
    with pytest.raises(InputError, match="exit-on-preemption: expected a status from 0 to 255"):
        sweep.main(["orl-ring", "loss.ring.weight=0", "--", "--exit-on-preemption", "256"])
