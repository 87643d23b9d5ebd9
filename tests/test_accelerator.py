"""The accelerator script: its list of measurements, and the rows of jobs that end in each way."""

import importlib
import sys
from pathlib import Path

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Job

ROOT = Path(accelerator.__file__).parent.parent


@pytest.mark.parametrize("sizes", [accelerator.TINY, accelerator.Sizes()])
def test_measurements_are_of_what_there_is(sizes, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    jobs = accelerator.jobs(sizes, tmp_path)
    assert list(dict.fromkeys(job.part for job in jobs)) == list(accelerator.SECONDS)
    # Eight minutes, less the look at the machine before the first part.
    assert sum(accelerator.SECONDS.values()) <= 470
    workers = [job.command[1:4] for job in jobs if "--worker" in job.command]
    assert len(workers) == 2 * 9 + 2 * 5
    for script, _, candidate in workers:
        assert candidate in importlib.import_module(Path(script).stem).CANDIDATES
    (tests,) = (job.command for job in jobs if "pytest" in job.command)
    assert all((ROOT / path).exists() for path in tests if path.startswith("tests/"))


def test_rows_say_how_a_job_ended():
    def ended(code, seconds=30.0, **more):
        job = Job("head", "a row", [sys.executable, "-c", code], accelerator._head_row, **more)
        return (
            accelerator.line(accelerator.run(job, seconds)).removeprefix("head").split(None, 2)[2]
        )

    numbers = '{"seconds": [0.003, 0.001, 0.002], "peak": 1234.4, "loss": 7.0}'
    assert ended(f"print('noise'); print('{numbers}')") == "2.00 ms, 1,234 MiB"
    assert ended("import this_is_missing") == (
        "FAILED: ModuleNotFoundError: No module named 'this_is_missing'"
    )
    assert ended("raise SystemExit(1)") == "FAILED: no output"
    assert ended("import time; time.sleep(60)", 1.0) == "CUT: not done after 1 s"
    assert ended("", 0.5) == "CUT: the part's time was over before it began"
    assert ended("", needs="this_is_missing") == "SKIPPED: this_is_missing is not installed"


def test_a_share_of_peak_is_of_three_passes():
    """iresnet-50 has 11.715 GFLOP per image, so that 1,000 per second are 35.146 TFLOP."""
    found = {"train": [0.2, 0.1, 0.3], "peak": 10.0}
    row = accelerator._backbone_row(found, "iresnet-50", 200, 100.0)
    assert row["tflops"] == pytest.approx(35.146, abs=1e-3)
    assert row["text"] == "1,000.0 images per second, 10 MiB, 35% of peak"
