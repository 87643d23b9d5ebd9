"""Builds the texts in which a command proposes the next command, quoted for a shell."""

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperface.errors import InputError
from hyperface.files import read_json
from hyperface.runs.evaluate_options import default_out

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from hyperface.config.experiment import Experiment
    from hyperface.data.manifest import Manifest
    from hyperface.runs.evaluate_plan import Images


def command(*words: object) -> str:
    """Returns a command of hyperface that can be pasted into a shell.

    Args:
      *words: the subcommand and its options, which are converted to text and quoted.

    Example:
      >>> command("verify", "my photo.jpg", Path("b.jpg"))
      "hyperface verify 'my photo.jpg' b.jpg"
    """
    return shlex.join(["hyperface", *map(str, words)])


def words(options: "DataclassInstance", *positional: str) -> list[str]:
    """Returns the words of a command line that set the options of a dataclass.

    Options with their default value are left out.

    Args:
      options: a dataclass of a command's options, whose values are scalars, paths or tuples.
      *positional: names of the fields whose values are written on the command line without
        "--NAME". They come first, in the order of the dataclass.

    Returns:
      The words, such as ["photos/", "--out", "mine"].
    """
    first, named = [], []
    for f in dataclasses.fields(options):
        value = getattr(options, f.name)
        if f.name in positional:
            first.append(str(value))
        elif value != f.default:
            flag = f.name.replace("_", "-")
            values = value if isinstance(value, tuple) else (value,)
            # tyro has the options --name and --no-name for a field that is True or False.
            if isinstance(value, bool):
                named.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                named += [f"--{flag}", *map(str, values)]
    return [*first, *named]


def after_prepare(options: Any, name: str, folder: Path, manifest: "Manifest") -> str:
    """Returns the text that proposes the next command for a data set that was just prepared.

    The proposed command depends on the splits (parts) of the data set:

    - "train" and "test": train on the data set.
    - "train" alone: prepare the data set again, with a quarter of the people as test people. With
      fewer than 4 people the result is "".
    - "test" alone, with a list of pairs: score these pairs by raw pixels.
    - "test" alone, without a list: calibrate a network by these people (choose its thresholds for
      "same" and "different").

    Args:
      options: the `Prepare` options with which the data set was prepared.
      name: name of the data set.
      folder: folder of the data set.
      manifest: the record of the data set's images and people.
    """
    place = _place(options.data_dir)
    if "train" in manifest.images and "test" in manifest.images:
        return f"Next: {command('train', name, *place)}"
    if "train" in manifest.images:
        people = sum(n > 0 for n in manifest.images_per_identity["train"])
        # A quarter of the people is held out, and a quarter of fewer than 4 is nobody.
        if people < 4:
            return ""
        again = dataclasses.replace(options, held_out=people // 4, replace=True)
        return (
            "Nobody is held out to score a network on. Next: "
            f"{command('prepare', *words(again, 'source'))}"
        )
    if (folder / "pairs.csv").exists():
        pairs = ["--protocol", "pairs", "--dataset", name]
        return f"Next: {command('evaluate', 'pixels', *pairs, *place)}"
    # All people are for the test: they calibrate a network that was not trained on them.
    scored = command("evaluate", "NETWORK", "--protocol", "folder", "--dataset", name, *place)
    return f"To calibrate a run or a file of released weights, NETWORK, on these people: {scored}"


def after_any_training(workdir: Path, data_dir: Path) -> str:
    """Returns the `hyperface evaluate` command that scores a run on its own test images.

    Args:
      workdir: folder of the run.
      data_dir: folder of prepared data sets.
    """
    return command("evaluate", workdir, *_place(data_dir))


def after_training(experiment: "Experiment", workdir: Path, data_dir: Path) -> str:
    """Returns the text that proposes how to calibrate a run that was trained on a user's data set.

    To calibrate is to choose the thresholds for "same" and "different". The proposed command is
    `hyperface evaluate` with the protocol "folder".

    Args:
      experiment: the experiment of the run.
      workdir: folder of the run.
      data_dir: folder of prepared data sets.

    Returns:
      The text; "" for an experiment that comes with the library, and for a run whose own protocol
      classifies images instead of comparing pairs.
    """
    data = experiment.data
    # `own_data` names the experiment for a user's data set like the data set.
    if experiment.name != data.name or experiment.evaluation.protocol != "verification":
        return ""
    split = [] if data.test_split == "test" else ["--split", data.test_split]
    names = ["--protocol", "folder", "--dataset", data.name, *split, *_place(data_dir)]
    return f"Choose a threshold and see all figures: {command('evaluate', workdir, *names)}"


def usual_calibration(run: Path) -> Path:
    """Returns the path of the calibration that hyperface evaluate writes if there is no --out.

    It is FOLDER/evaluation/calibration.json, and for a weight file evaluation/NAME/calibration.json
    in the current folder. The file may be absent.

    Args:
      run: folder of a run or of an export, or a weight file.
    """
    return default_out(run) / "calibration.json"


def after_calibration(images: "Images", path: Path) -> str:
    """Returns the text that names a new calibration, and proposes to compare photos by it.

    Only a network can compare photos. For a file of features and for pixels the text only names the
    path of the calibration.

    Args:
      images: the images that were scored, and the network.
      path: path of the new calibration.json.
    """
    # Photos can be compared by a network only, neither by a file of features nor by raw pixels.
    if images.dataset is None or str(images.source) == "pixels":
        return f"Thresholds: {path}"
    given = [] if path == usual_calibration(images.source) else ["--calibration", path]
    shown = command("verify", "ONE.jpg", "OTHER.jpg", "--run", images.source, *given)
    return f"Thresholds: {path}\nCompare two photos: {shown}"


def to_calibrate(run: Path) -> str:
    """Returns the text that explains how to calibrate a network: a sentence with a command.

    Args:
      run: folder of a run or of an export, or a weight file. The command for a run names the data
        set of the run. The command for the others has the placeholder NAME for the data set.
    """
    config = run / "config.json"
    name, people = "NAME", "people that it was not trained on, a prepared data set NAME"
    if config.is_file():
        # A config.json of another program lacks these keys, and it may be damaged. The text then
        # has a placeholder: a proposal must not end the command before it has written its results.
        with contextlib.suppress(InputError, KeyError, TypeError):
            name = str(read_json(config)["experiment"]["data"]["name"])
            people = "the test people of its data set"
    shown = command("evaluate", run, "--protocol", "folder", "--dataset", name)
    return f"Calibrate it on {people}: {shown}"


def _place(data_dir: Path | None) -> list[str]:
    """Returns the words of --data-dir, or [] if commands find the data folder without it."""
    from hyperface.data.datasets import data_directory

    usual = data_dir is None or data_directory(data_dir) == data_directory()
    return [] if usual else ["--data-dir", str(data_dir)]
