"""A damaged or forged file is read, or refused in one line, without hanging, in 256 MiB."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzed_readers import READERS
from mutations import mutated

HERE = Path(__file__).parent
GROUPS = 4


def run(folder: Path, count: int, first: int, names: list[str], timeout: float) -> None:
    """Reads damaged files in a process of its own, whose memory can be measured and bounded."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    environment = os.environ | {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": "1"}
    command = [sys.executable, HERE / "fuzzed_readers.py", folder, str(count), str(first), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-1000:]}"
    assert done.stdout == ""
    assert done.stderr.count("\n") >= count * len(names)


@pytest.mark.parametrize("group", range(GROUPS))
def test_damaged_files_are_read_or_refused(group, tmp_path):
    run(tmp_path, 100, 0, list(READERS)[group::GROUPS], timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_read_or_refused(name, tmp_path):
    run(tmp_path, 5000, 1000, [name], timeout=900)


def test_the_damage_is_of_many_kinds_and_comes_again():
    data = bytes(range(200))
    found = [mutated(data, random.Random(seed)) for seed in range(200)]
    assert found == [mutated(data, random.Random(seed)) for seed in range(200)]
    assert len(set(found)) > 190
    assert {len(one) > len(data) for one in found} == {True, False}
