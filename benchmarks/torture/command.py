"""Kills a training run at random moments, damages what it leaves, and compares how it ends.

    python -m benchmarks.torture                                    a made-up data set, 50 kills
    python -m benchmarks.torture mnist-ring --kills 10 -- --steps 400 --checkpoint-every 50

The words after -- are options of hyperface train, the same for every run. The command does this:

1. It trains one run without a break.
2. It trains further runs and kills them with kill -9 at random moments, until enough kills are
   done. Each run must end with the parameters, log and scores of the first one, bit for bit. No
   kill may cost more steps than an interval of checkpoints, and the interval whose save was not
   finished.
3. It continues runs with another number of devices after each kill, with whole and with split
   agents (class weights). They must end with the same parameters up to float32 rounding.
4. It tries each other fault, such as a full disk.

The exit status is 1 if one of these requirements is not met.
"""

import dataclasses
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.torture.faults import FAULTS
from benchmarks.torture.restarts import Trainer
from hyperface import experiments
from hyperface.errors import InputError
from hyperface.runs import program

MADE_UP = [
    "--data.name", "made-up", "--data.batch-size", "16", "--model.feature-dim", "8",
    "--steps", "40", "--log-every", "1", "--checkpoint-every", "4", "--compare",
    "--optimizer.learning-rate", "0.02", "--optimizer.boundaries", "--evaluation.folds", "4",
    "--evaluation.snapshots", "1",
]  # fmt: skip

ROUNDING = 1e-5
"""Largest relative distance of a parameter array that another order of sums can explain."""


@dataclasses.dataclass(frozen=True)
class Torture:
    """Options of the command."""

    kills: int = 50
    """Number of kills."""
    seed: int = 0
    """Seed of the random moments of the kills."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of simulated devices of one run, which is killed on each number but the last. All of
    them divide the batch size."""
    faults: bool = True
    """Try the other faults too."""
    data_dir: Path | None = None
    """Folder of prepared data sets. If no experiment is named, it is a temporary folder with a
    made-up data set."""


def main(args: Sequence[str]) -> None:
    """Parses the options and does all tests; ends with status 1 if a requirement is not met."""
    args, given = _split(list(args))
    name = args.pop(0) if args and not args[0].startswith("-") else None
    options = program.parse(Torture, args, prog="python -m benchmarks.torture", description=__doc__)
    if options.kills < 1:
        raise InputError(f"--kills: expected at least 1, found {options.kills}.")
    if name is not None:
        experiments.load(name)
    with tempfile.TemporaryDirectory(prefix="hyperface-torture-") as folder:
        folder = Path(folder)
        if name is None:
            data_dir = options.data_dir or _made_up(folder)
            arguments = ["orl-normface", *MADE_UP, *given, "--data-dir", str(data_dir)]
        else:
            arguments = [name, *given]
            if options.data_dir:
                arguments += ["--data-dir", str(options.data_dir)]
        held = _tortured(Trainer(arguments, folder), options)
    sys.exit(0 if held else 1)


def _tortured(trainer: Trainer, options: Torture) -> bool:
    """Does all tests, prints one line per test, and returns whether all requirements are met."""
    seconds = trainer.train_whole()
    print(f"Unbroken: {seconds:.0f} s, {trainer.steps} steps.", flush=True)
    rng = random.Random(options.seed)
    rows, kills, runs = [], 0, 0

    def add(title: str, act: Callable[[], tuple[str, bool]]) -> None:
        trainer.shown.clear()
        rows.append(_judged(title, act))
        print(_row(*rows[-1]), flush=True)
        if not rows[-1][-1]:
            print(*trainer.shown, sep="\n", flush=True)

    def killed() -> tuple[str, bool]:
        nonlocal kills
        found = trainer.train_killed(f"killed-{runs}", options.kills - kills, rng, seconds)
        kills += found.kills
        outcome = f"{found.kills} kills, {found.lost} steps lost at most"
        return outcome, found.equal and found.lost <= trainer.most_lost

    # A run may end before its first kill. The second condition bounds the number of such runs.
    while kills < options.kills and runs < options.kills:
        runs += 1
        add(f"run {runs}, kill -9", killed)
    for title, more, counts in _moves(trainer, options.devices):
        name = "-".join(["moved", *more]).replace("---", "-")

        def moved(name=name, more=more, counts=counts) -> tuple[str, bool]:
            distance = trainer.train_on_changing_devices(name, counts, rng, *more)
            return f"{distance:.1e} of their length away at most", distance <= ROUNDING

        add(title, moved)
    if options.faults:
        for title, fault in FAULTS.items():
            add(title, partial(fault, trainer))
    held = sum(row[2] for row in rows)
    print(f"{kills} kills, {held} of {len(rows)} held.")
    return held == len(rows) and kills >= options.kills


def _moves(
    trainer: Trainer, devices: tuple[int, ...]
) -> list[tuple[str, tuple[str, ...], tuple[int, ...]]]:
    """Returns (title, options, device counts) of each run whose number of devices changes.

    Args:
      trainer: gives the largest number of devices over which agents can be split.
      devices: the device counts, in order.
    """
    split = tuple(count for count in devices if count <= trainer.most_shards)
    moves = [("", (), devices), (", agents split", ("--shard-agents",), split)]
    return [
        (f"kill -9, {', '.join(map(str, counts))} devices{title}", more, counts)
        for title, more, counts in moves
        if len(counts) > 1
    ]


def _judged(title: str, act: Callable[[], tuple[str, bool]]) -> tuple[str, str, bool]:
    """Does a test and returns its row: (title, outcome in words, whether it is as required).

    Args:
      title: title of the test.
      act: does the test and returns its outcome. A RuntimeError counts as a failure.
    """
    try:
        return title, *act()
    except RuntimeError as error:
        return title, str(error).strip(), False


def _row(title: str, outcome: str, held: bool) -> str:
    return f"{title:44} {'holds' if held else 'FAILS'}  {outcome}"


def _split(args: list[str]) -> tuple[list[str], list[str]]:
    """Returns the words before "--", and those after it."""
    if "--" not in args:
        return args, []
    place = args.index("--")
    return args[:place], args[place + 1 :]


def _made_up(folder: Path) -> Path:
    """Writes a data set of random patterns, and returns the folder of prepared data sets.

    It has 12 people with 8 noisy images each. 8 of the people are in the training split.
    """
    import numpy as np
    from PIL import Image

    from hyperface.data import store
    from hyperface.data.planning import Options
    from hyperface.data.sources.trees import folder as tree

    rng = np.random.default_rng(0)
    for person in range(12):
        place = folder / f"people/{person}"
        place.mkdir(parents=True)
        pattern = rng.integers(30, 225, (16, 14, 3))
        for image in range(8):
            noisy = np.clip(pattern + rng.normal(0, 12, pattern.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(place / f"{image}.png")
    store.prepare(tree(folder / "people"), folder / "data/made-up", Options(held_out=4))
    return folder / "data"
