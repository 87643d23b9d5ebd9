"""Measures the strength of the tests: plants each fault of tests/faults.toml and runs its tests.

    python benchmarks/faults.py
    python benchmarks/faults.py --only losses/ --jobs 2

Every entry changes one place of the code. The entry's tests must fail with the change and pass
without it. The changes are made in temporary copies of the tree, never in the tree itself. Ends
with status 1 where a fault survives, or where an entry's tests prove nothing.
"""

import argparse
import concurrent.futures
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "faults.toml"
COPIED = ("hyperface", "launch", "tests", "benchmarks", "notebooks")
TIMEOUT = 300
"""Seconds for the tests of one entry. With a fault that makes the program hang they take longer."""

CAUGHT, SURVIVED, HANGS, UNUSABLE = "caught", "SURVIVED", "caught (hangs)", "UNUSABLE"


@dataclass(frozen=True)
class Fault:
    """A planted fault."""

    file: str
    text: str
    """Occurs exactly once in the file."""
    becomes: str
    tests: tuple[str, ...]
    """Files or node ids, one of whose tests must fail."""
    user: str
    """What a user would suffer."""


def read_faults(path: Path = LIST) -> list[Fault]:
    """Returns the kept list of planted faults."""
    entries = tomllib.loads(path.read_text())["fault"]
    return [Fault(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]


def copy_tree(target: Path) -> None:
    """Copies what the tests need, without compiled files, which could hide a change."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for path in (path for path in ROOT.iterdir() if path.is_file() and path.name[0] != "."):
        shutil.copy(path, target)


def run_tests(
    tree: Path, tests: Sequence[str], *, jobs: int = 0, timeout: float | None = TIMEOUT
) -> int | None:
    """Runs tests on a copy of the tree; returns pytest's status, None where they hang.

    Slow tests run too where they are named.
    """
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    # These come after the options of setup.cfg, and the last of each wins.
    words = ["-m", "pytest", "-q", "-x", "-n", str(jobs), "-m", "", "-p", "no:cacheprovider"]
    with (tree / "pytest.log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, *words, *tests],
            cwd=tree,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # So that the processes that tests start end with it.
        )
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def verdict(tree: Path, fault: Fault) -> str:
    """Plants one fault in a copy of the tree, runs its tests, and takes the fault back."""
    path = tree / fault.file
    sound = path.read_text()
    if (count := sound.count(fault.text)) != 1:
        return f"{UNUSABLE}: the text occurs {count} times"
    path.write_text(sound.replace(fault.text, fault.becomes))
    try:
        status = run_tests(tree, fault.tests)
    finally:
        path.write_text(sound)
    # Pytest: 0 all passed, 1 some failed, others: nothing was tested.
    return {None: HANGS, 0: SURVIVED, 1: CAUGHT}.get(status, f"{UNUSABLE}: status {status}")


class Trees:
    """Copies of the tree, each used by one caller at a time."""

    def __init__(self, folder: Path, number: int):
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for place in range(number):
            copy_tree(folder / str(place))
            self._free.put(folder / str(place))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns what the function, given a copy first, returns."""
        tree = self._free.get()
        try:
            return function(tree, *arguments)
        finally:
            self._free.put(tree)


def passes_without(trees: Trees, faults: Sequence[Fault], jobs: int) -> bool:
    """Whether the tests of all faults pass with none planted: else they prove nothing."""
    named = sorted({test for fault in faults for test in fault.tests})

    def run(tree: Path) -> bool:
        if run_tests(tree, named, jobs=jobs, timeout=None) == 0:
            return True
        print(f"The tests of {len(faults)} faults do not pass without them:")
        print((tree / "pytest.log").read_text(errors="replace")[-2000:])
        return False

    return trees.call(run)


def main() -> int:
    """Prints a line per fault, then a line of totals."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a file's name, of the text or sentence")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at once")
    options = parser.parse_args()
    faults = [f for f in read_faults() if any(options.only in t for t in (f.file, f.text, f.user))]
    if not faults:
        parser.error(f"--only: no planted fault has {options.only!r}")
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        trees = Trees(Path(scratch), options.jobs)
        if not passes_without(trees, faults, options.jobs):
            return 1
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(partial(trees.call, verdict), faults)
            for fault, result in zip(faults, results, strict=True):
                print(f"{result:15}{fault.file:42}{fault.user}", flush=True)
                missed += result not in (CAUGHT, HANGS)
    print(f"{len(faults) - missed} of {len(faults)} planted faults are caught.")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
