"""The built wheel alone, without the checkout, does the main job: nothing was left out of it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAIN_JOB = ("-m", "hyperface", "train", "--steps", "20", "--workdir", "run")
"""The command that a user of the wheel starts, and the arguments that make it short."""
SOURCES = ("hyperface", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
# An editable installation would stand in for what the wheel lacks.
WITHOUT_CHECKOUT = f"""
import pathlib, sys
sys.meta_path[:] = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
sys.path[:] = [p for p in sys.path if pathlib.Path(p).resolve() != pathlib.Path({str(ROOT)!r})]
"""


def run(*words, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: setuptools leaves its work beside them."""
    copy = tmp_path_factory.mktemp("sources")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    words = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(*words, "--wheel-dir", str(out), str(copy), cwd=copy)
    (path,) = out.glob("hyperface-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_has_every_module_and_every_file_that_one_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in found if n.endswith("/METADATA"))
    assert "Description-Content-Type: text/markdown" in metadata
    assert (ROOT / "README.md").read_text().strip() in metadata
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.suffix in (".py", ".toml", ".json") and path.parent != ROOT
    }
    packages = {name.split("/")[0] for name in found} & set(SOURCES)
    assert sorted({name for name in wanted if name.split("/")[0] in packages} - found) == []
    assert "hyperface" in packages


@pytest.mark.slow
def test_the_main_job_runs_from_the_built_wheel_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    environment = {"PYTHONPATH": str(site), "HYPERFACE_DATA_DIR": str(tmp_path / "data")}
    found = run("-c", "import hyperface; print(hyperface.__file__)", cwd=empty, **environment)
    assert Path(found.strip()) == site / "hyperface/__init__.py"
    run(*MAIN_JOB, cwd=empty, **environment)
    assert (empty / "run/results.json").is_file()
    assert (empty / "run/report.html").is_file()
