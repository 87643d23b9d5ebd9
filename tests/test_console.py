"""What is printed is shown as it is: no name of a file or a person is markup."""

import ast
import io
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_people
from rich.console import Console

import hyperface
from hyperface.console import (
    ConsoleHandler,
    make_console,
    plain,
    say,
)
from hyperface.errors import InputError
from hyperface.reproduce import command
from hyperface.runs import clean, evaluate, export, prepare, program, sweep
from hyperface.train import loop
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.logs import TrainingProgress

MARKUP = "a [/x] [red] :smile: {task}"


@pytest.mark.parametrize("console", [make_console(), Console(markup=True)])
@pytest.mark.parametrize("text", [MARKUP, "[/]", "[link=x]", "[", "\\[red]", "x" * 500])
def test_a_text_is_printed_as_it_is(text, console):
    console.file = io.StringIO()
    say(console, text, "red")
    assert console.file.getvalue() == f"{text}\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31m", "\\x1b[31m"), ("a\rb", "a\\rb"), ("\udcff", "\\udcff"), ("é\n\t漢", "é\n\t漢")],
)
def test_characters_that_steer_a_terminal_are_shown(text, shown):
    assert plain(text).plain == shown


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_is_titled_by_any_text(is_terminal, logged):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=200)
    with program.progress(MARKUP, "images", console=console) as advance:
        advance(1, 2)
    with TrainingProgress(MARKUP, 0, 2, console) as progress:
        progress.update(1, {"loss": 1.0, "examples": 4})
        progress.update(2, {"loss": 1.0, "examples": 4})
    shown = [console.file.getvalue()] if is_terminal else logged()
    assert any(MARKUP in text for text in shown)


def test_a_record_is_printed_as_it_is():
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=30)
    logger = logging.Logger("other")
    logger.addHandler(ConsoleHandler(console))
    for level, colour in ((logging.INFO, ""), (logging.WARNING, "33"), (logging.ERROR, "31")):
        logger.log(level, f"{MARKUP} 100 % of a line that is longer than the terminal")
        shown = console.file.getvalue()
        assert f"{MARKUP} 100 % of a line that is longer than the terminal" in shown
        assert (f"\x1b[{colour}m" in shown) == bool(colour)
        console.file.seek(0)
        console.file.truncate()


SILENT = """if True:
    import logging, sys
    from pathlib import Path
    from hyperface.config.experiment import Experiment
    from hyperface.train.run_folder import locked_run_folder

    def warn(folder):
        experiment = {"experiment": {}, "data": {}}
        for known in ("0.1", "0.2"):
            with locked_run_folder(Path(folder), experiment):
                path = Path(folder) / "environment.json"
                path.write_text(path.read_text().replace('"numpy": "', '"numpy": "' + known))

    warn(sys.argv[1])
    print("listening")
    logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s")
    warn(sys.argv[1])
"""


def test_the_library_is_silent_unless_logging_is_configured(tmp_path):
    command = [sys.executable, "-c", SILENT, str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["listening", *["hyperface WARNING"] * 2]


SHOWN = """if True:
    import logging
    from hyperface.console import log_console, show_log
    assert show_log() is show_log() is log_console()
    logging.basicConfig()  # As a library does it unasked.
    logging.getLogger("hyperface").warning("once")
"""


def test_the_log_is_shown_once_however_often_that_is_asked():
    ended = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("once\n", "")


@pytest.fixture
def place(tmp_path):
    """A folder whose name is markup."""
    folder = tmp_path / "a[/x] [red]"
    folder.mkdir(parents=True)  # Its "/" makes it two.
    return folder


@pytest.fixture
def run(random_run, place):
    return shutil.copytree(random_run[0], place / "run [/y]")


@pytest.fixture
def data(tiny_data, place):
    return shutil.copytree(tiny_data, place / "data [/z]")


def test_prepare_and_inspect_print_any_path(place, capsys):
    people = write_people(place / "people", people=3, images=3)
    (people / "person0/[bold] broken.png").write_bytes(b"no image")
    prepare.main([str(people), "--out", "mine", "--data-dir", str(place)])
    prepare.main(["mine", "--inspect", "--data-dir", str(place)])
    shown = capsys.readouterr().out
    assert f"{place}/mine/1.0.0 (train): 9 images" in shown
    assert "[bold] broken.png" in shown
    assert f"{place}/mine/1.0.0/train-faces.png" in shown


def test_evaluate_prints_any_path(run, data, capsys):
    evaluate.main([str(run), "--data-dir", str(data)])
    pairs = data / "pairs.csv"
    names = [f"person{person}/{image}.png" for person in range(6, 10) for image in range(8)]
    lines = {same: [f"{a},{b},{int(same)}\n" for a in names for b in names
                    if a < b and (a[:7] == b[:7]) == same] for same in (True, False)}  # fmt: skip
    pairs.write_text("".join(["first,second,same\n", *lines[True][:100], *lines[False][:100]]))
    options = ["--protocol", "pairs", "--dataset", "tiny", "--pairs", str(pairs)]
    evaluate.main([str(run), "--data-dir", str(data), *options, "--preset", "plain"])
    assert f"Report: {run}/evaluation/evaluation.html" in capsys.readouterr().out


def test_export_and_clean_print_any_path(run, data, place, capsys):
    export.main([str(run), "--out", str(place / "out"), "--format", "safetensors"])
    common = ["tiny", "--run", str(run), "--out", str(place / "cleaned")]
    clean.main([*common, "--data-dir", str(data)])
    shown = capsys.readouterr().out
    assert f"{place}/out/embedder.safetensors: " in shown
    assert f"Lists and pictures: {place}/cleaned" in shown


def test_training_prints_any_path(tiny_experiment, data, tmp_path, capsys):
    import dataclasses

    few = dataclasses.replace(tiny_experiment, name="tiny [/x] [red]", steps=4)
    loop.train(few, data, tmp_path / "run")
    shown = capsys.readouterr().out
    assert "tiny [/x] [red] 4/4 loss" in shown


@pytest.mark.parametrize("name", ["[x]", "a*", "what?"])
def test_a_run_folder_in_which_orbax_would_lose_checkpoints_is_refused(
    name, tiny_experiment, tiny_data, tmp_path
):
    """It would save them without an error, and nobody could read them."""
    with pytest.raises(InputError, match=r"Orbax saves checkpoints there that cannot be read"):
        loop.train(tiny_experiment, tiny_data, tmp_path / name)
    with pytest.raises(InputError, match=r"Take another --workdir"):
        Checkpoints(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_sweep_and_reproduce_print_any_path(place, data, capsys, monkeypatch):
    def failing(options):
        raise InputError(f"expected better in {options.workdir}")

    monkeypatch.setattr("hyperface.runs.train.plan", failing)
    monkeypatch.setattr("hyperface.runs.sweep._check", lambda planned: [])
    arguments = ["orl-ring", "loss.ring.weight=0.1", "--out", str(place / "sweep"), "--"]
    with pytest.raises(SystemExit):
        sweep.main([*arguments, "--data-dir", str(data)])
    arguments = ["normface", "--only", "proposition-1", "--out", str(place / "paper")]
    command.main([*arguments, "--no-train", "--runs", str(place / "runs")])
    shown = capsys.readouterr().out
    assert f"failed: expected better in {place}/sweep" in shown
    assert f"Report: {place}/sweep/sweep.html" in shown
    assert f"Report: {place}/paper/normface/report.html" in shown


def test_an_error_is_printed_as_it_is(place, capsys, monkeypatch):
    def command(arguments):
        raise InputError(f"expected a file, found {place}")

    with pytest.raises(SystemExit):
        program.run(command)
    assert capsys.readouterr().err == f"error: expected a file, found {place}\n"


def test_nothing_is_printed_in_another_way():
    """Rich's own ways take strings for markup."""
    roots = [Path(hyperface.__file__).parent]
    for path in (path for root in roots for path in root.rglob("*.py")):
        if path.name == "console.py":
            continue
        text = path.read_text()
        assert not re.search(r"console\.(print|log|print_exception|rule|input)\(", text), path
        assert not re.search(r"\b(TextColumn|from_markup|Console)\(", text), path
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "attr", "")
            if name == "status":
                assert ast.unparse(call.args[0]).startswith("plain("), path
