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
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

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


def run_tests(tree: Path, tests: tuple[str, ...] | list[str]) -> int | None:
    """Runs tests in one process on a copy of the tree; returns pytest's status, None if it hangs.

    Slow tests run too where they are named.
    """
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    # Before the options of setup.cfg, of which the last of each wins.
    words = ["-m", "pytest", "-q", "-x", "-n", "0", "-m", "", "-p", "no:cacheprovider", *tests]
    log = (tree / "pytest.log").open("w")
    with (
        log,
        subprocess.Popen(
            [sys.executable, *words], cwd=tree, env=environment, stdout=log, stderr=log
        ) as child,
    ):
        try:
            return child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            return None


def verdict(tree: Path, fault: Fault) -> str:
    """Plants one fault in a copy of the tree, runs its tests, and takes the fault back."""
    path = tree / fault.file
    sound = path.read_text()
    path.write_text(sound.replace(fault.text, fault.becomes))
    try:
        status = run_tests(tree, fault.tests)
    finally:
        path.write_text(sound)
    # Pytest: 0 all passed, 1 some failed, others: nothing was tested.
    return {None: HANGS, 0: SURVIVED, 1: CAUGHT}.get(status, f"{UNUSABLE}: status {status}")


def main() -> int:
    """Prints a line per fault, then a line of totals."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of a file's name or of the changed text")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at once")
    options = parser.parse_args()
    faults = [f for f in read_faults() if any(options.only in t for t in (f.file, f.text, f.user))]
    with tempfile.TemporaryDirectory() as scratch:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(options.jobs):
            copy_tree(Path(scratch) / str(number))
            trees.put(Path(scratch) / str(number))

        def in_a_tree(function, *arguments):
            tree = trees.get()
            try:
                return function(tree, *arguments)
            finally:
                trees.put(tree)

        # A test that fails anyway catches nothing.
        named = sorted({test for fault in faults for test in fault.tests})
        if in_a_tree(run_tests, named) != 0:
            print(f"The tests of these {len(faults)} faults do not pass without them.")
            return 1
        found = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for fault, result in zip(
                faults, pool.map(lambda f: in_a_tree(verdict, f), faults), strict=True
            ):
                print(f"{result:15}{fault.file:42}{fault.user}", flush=True)
                found.append(result)
    missed = sum(result not in (CAUGHT, HANGS) for result in found)
    print(f"{len(found) - missed} of {len(found)} planted faults are caught.")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
