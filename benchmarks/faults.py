"""Measures the strength of the tests: plants each fault of tests/faults.toml and runs its tests.

    python benchmarks/faults.py
    python benchmarks/faults.py --only losses/ --jobs 2

Every entry changes one place of the code. The entry's tests must fail with the change and pass
without it. The changes are made in temporary copies of the tree, never in the tree itself. The
exit status is 1 if no test notices a fault, or if the tests of an entry cannot be judged.
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
"""Seconds for the tests of one entry. Tests that take longer hang because of the fault."""

CAUGHT, SURVIVED, HANGS, UNUSABLE = "caught", "SURVIVED", "caught (hangs)", "UNUSABLE"
"""The verdicts: a test fails, all tests pass, the tests do not end, nothing could be tested."""


@dataclass(frozen=True)
class Fault:
    """A planted fault: a change of the code that tests must notice."""

    file: str
    """Path of the changed file, relative to the repository."""
    text: str
    """The text that is replaced, which occurs exactly once in the file."""
    becomes: str
    """The faulty text in its place."""
    tests: tuple[str, ...]
    """Test files or pytest node ids; at least one of their tests must fail."""
    user: str
    """A sentence that says what a user would suffer from the fault."""


def read_faults(path: Path = LIST) -> list[Fault]:
    """Returns the planted faults in a TOML file."""
    entries = tomllib.loads(path.read_text())["fault"]
    return [Fault(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]


def copy_tree(target: Path) -> None:
    """Copies the folders and files that the tests need into a folder.

    Compiled files are left out, because Python could run them instead of a changed source file.
    """
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for path in (path for path in ROOT.iterdir() if path.is_file() and path.name[0] != "."):
        shutil.copy(path, target)


def run_tests(
    tree: Path, tests: Sequence[str], *, jobs: int = 0, timeout: float | None = TIMEOUT
) -> int | None:
    """Runs tests in a copy of the tree, and writes their output to its `pytest.log`.

    Args:
      tree: folder of the copy.
      tests: test files or node ids. Slow tests among them run too.
      jobs: number of pytest's worker processes; 0 runs the tests in pytest's own process.
      timeout: seconds after which the tests are ended; None waits for their end.

    Returns:
      pytest's exit status, or None after the timeout.
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
    """Plants one fault in a copy of the tree, runs its tests, and removes the fault again.

    Returns:
      One of the verdicts; UNUSABLE is followed by the reason.
    """
    path = tree / fault.file
    sound = path.read_text()
    if (count := sound.count(fault.text)) != 1:
        return f"{UNUSABLE}: the text occurs {count} times"
    path.write_text(sound.replace(fault.text, fault.becomes))
    try:
        status = run_tests(tree, fault.tests)
    finally:
        path.write_text(sound)
    # pytest ends with 0 if all tests passed and 1 if some failed. Any other status, such as that of
    # a file that cannot be imported, says nothing about the tests.
    return {None: HANGS, 0: SURVIVED, 1: CAUGHT}.get(status, f"{UNUSABLE}: status {status}")


class Trees:
    """Copies of the tree, each of which is used by one caller at a time.

    Args:
      folder: folder for the copies.
      number: number of copies.
    """

    def __init__(self, folder: Path, number: int):
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for place in range(number):
            copy_tree(folder / str(place))
            self._free.put(folder / str(place))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Waits for a free copy, calls a function with it, and returns the function's result.

        Args:
          function: the function; its first argument is the path of the copy.
          *arguments: the further arguments.
        """
        tree = self._free.get()
        try:
            return function(tree, *arguments)
        finally:
            self._free.put(tree)


def passes_without(trees: Trees, faults: Sequence[Fault], jobs: int) -> bool:
    """Returns whether the tests of all faults pass without any fault; if not, prints their output.

    A test that fails without the fault does not show that it would notice the fault.

    Args:
      trees: the copies of the tree.
      faults: the faults.
      jobs: number of pytest's worker processes.
    """
    named = sorted({test for fault in faults for test in fault.tests})

    def run(tree: Path) -> bool:
        if run_tests(tree, named, jobs=jobs, timeout=None) == 0:
            return True
        print(f"The tests of {len(faults)} faults do not pass without them:")
        print((tree / "pytest.log").read_text(errors="replace")[-2000:])
        return False

    return trees.call(run)


def main() -> int:
    """Tries all faults, prints one line per fault and their total, and returns the exit status."""
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
