"""Scores pair lists of any data set: AgeDB-30, CALFW, CPLFW, and lists of the user's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._agedb import read_agedb
from hyperface.protocols._lines import Line, after, read_lines
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.pair_list import Pair, PairList, block_folds, collect
from hyperface.protocols.pair_verification import score_pairs
from hyperface.protocols.protocol import PAIR_OPTIONS, Protocol, Settings
from hyperface.protocols.result import Result

FOLDS = 10
"""Number of folds of the published lists, and of a long list that names no folds."""
CSV_HEADERS = (["first", "second", "same"], ["first", "second", "same", "fold"])

_SAME = {"1": True, "0": False, "-1": False}


def read_pairs(
    path: Path | str, folds: int | None = None, *, repeats: bool = False, equal: bool = True
) -> PairList:
    """Reads a pair list in one of these forms, recognised by the file's suffix and first line:

    - "a.jpg b.jpg 1" or "1 a.jpg b.jpg", with 0 or -1 for different people: the text lists of
      AgeDB-30 and the `_ann.txt` lists. Fields are separated by tabs or commas where the first line
      has one, else by blanks.
    - `first,second,same` or `first,second,same,fold`: a CSV file with this header; folds from 0.
    - "a.jpg 3" and "b.jpg 3": `pairs_CALFW.txt` and `pairs_CPLFW.txt`, two lines per pair. 0
      means different people. For one person, the number in CALFW is the fold, counted from 1, and
      in CPLFW it is always 1.
    - `.mat`: AgeDB's own protocol, a MATLAB file such as `04_FINAL_protocol_30_years.mat`, whose
      variable `splits` has the pairs and labels of each fold.

    Args:
      path: the file.
      folds: number of folds (groups of pairs), for a file that does not name the fold of each pair.
        In the file's order, the pairs of one person are cut into this number of parts, and so are
        the pairs of two people. Fold k has part k of each kind. CALFW names the folds of its pairs
        of one person, so that only its pairs of two people are assigned by this rule. None means 10
        folds. If `equal` is False and the file has fewer than 10 pairs of a kind, None means as
        many folds as pairs of that kind, but at least 2.
      repeats: True allows a pair to be listed more than once; all of its copies are returned. False
        raises an error for a repeated pair.
      equal: whether all folds must have the same number of pairs, as in published lists. If False,
        folds may differ by one pair of each kind.

    Returns:
      The pairs in the file's order.

    Raises:
      InputError: a line does not have the file's form, has one image twice, contradicts another
        line on whether a pair shows one person, or repeats a pair although `repeats` is False, and
        the message names the line; `folds` is given for a file that names the folds; or the pairs
        cannot be split into so many folds.

    References:
      Moschoglou et al.: AgeDB, CVPRW 2017. Zheng, Deng, Hu: Cross-Age LFW, 2017. Zheng, Deng:
      Cross-Pose LFW, 2018.
    """
    if Path(path).suffix.lower() == ".mat":
        _check_unnamed(folds, path)
        return read_agedb(path, repeats=repeats)
    lines = read_lines(path)
    # With tabs or commas between the fields, names may contain blanks.
    separator = next((mark for mark in "\t," if mark in lines[0].text), None)
    first = lines[0].fields(separator)
    if first in CSV_HEADERS:
        pairs = collect(_csv(lines, first), repeats=repeats)
        if "fold" in first:
            _check_unnamed(folds, path)
            return pairs
        return _in_blocks(pairs, folds, path, equal)
    if len(first) == 2:
        pairs = collect(_two_lines(lines, separator, folds or FOLDS), repeats=repeats)
        blocks = _in_blocks(pairs, folds, path, equal)
        # Only same pairs name their fold here; where every label is 0 or 1 it is no fold.
        named = pairs.same & (pairs.fold.max() > 0)
        return blocks._replace(fold=np.where(named, pairs.fold, blocks.fold))
    return _in_blocks(collect(_plain(lines, separator), repeats=repeats), folds, path, equal)


def _in_blocks(pairs: PairList, folds: int | None, path: Path | str, equal: bool) -> PairList:
    if folds is None:
        fewest = int(min(pairs.same.sum(), np.sum(~pairs.same)))
        # Two at least, since the threshold of a fold is fitted on the others.
        folds = FOLDS if equal else max(2, min(FOLDS, fewest))
    return pairs._replace(fold=block_folds(pairs.same, folds, str(path), equal=equal))


def _check_unnamed(folds: int | None, path: Path | str) -> None:
    """Raises InputError if a number of folds is given for a file that names each pair's fold."""
    if folds is not None:
        raise InputError(
            f"--folds: expected none with {path}, which names its folds, found {folds}."
        )


def _plain(lines: list[Line], separator: str | None) -> Iterator[Pair]:
    fields = lines[0].fields(separator)
    # The first line decides for the file: a later line in the other form is an error.
    label_last = fields[-1] in _SAME
    for line in lines:
        *images, label = fields = line.fields(separator)
        if not label_last:
            label, *images = fields
        if len(images) != 2 or label not in _SAME:
            form = "path path 0|1" if label_last else "0|1 path path"
            raise line.fault(f"a pair, {form}, or name and label on two lines a pair")
        yield Pair(line, line.image(images[0]), line.image(images[1]), _SAME[label])


def _two_lines(lines: list[Line], separator: str | None, folds: int) -> Iterator[Pair]:
    if len(lines) % 2:
        raise after(lines).fault("two lines a pair", "the end of the file after the first")
    for one, two in zip(lines[::2], lines[1::2], strict=True):
        (first, fold), (second, again) = _labelled(one, separator), _labelled(two, separator)
        if fold != again:
            raise two.fault(f"the label {fold} of the line before", again)
        number = two.whole(fold, "0 or the fold of a same pair", most=max(1, folds))
        # The fold of a different pair, whose label is 0, is set by the caller.
        yield Pair(two, first, second, number > 0, max(0, number - 1))


def _labelled(line: Line, separator: str | None) -> tuple[str, str]:
    fields = line.fields(separator)
    if len(fields) != 2:
        raise line.fault("a path and a label")
    return line.image(fields[0]), fields[1]


def _csv(lines: list[Line], header: list[str]) -> Iterator[Pair]:
    if len(lines) == 1:
        raise after(lines).fault("pairs", "the end of the file")
    for line in lines[1:]:
        fields = line.csv_fields()
        if len(fields) != len(header) or fields[2] not in _SAME:
            raise line.fault(f"{','.join(header)}, with same 0 or 1")
        fold = line.whole(fields[3], "the fold") if "fold" in header else 0
        yield Pair(line, line.image(fields[0]), line.image(fields[1]), _SAME[fields[2]], fold)


def _score(name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings) -> Result:
    """Scores a published list of ten folds."""
    return score_pairs(name, named, read_pairs(files[0]), settings)


def _score_any(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Scores a user's list, which may have any length and may list a pair twice."""
    pairs = read_pairs(files[0], settings.folds, repeats=True, equal=False)
    return score_pairs(name, named, pairs, settings)


def _find_list(name: str, folder: Path, settings: Settings, dataset: Path | None) -> list[Path]:
    """Returns the path of the list of pairs, as a list of one path.

    It is the file that --pairs names, in the current folder or in the folder of protocol files.
    Without --pairs it is `pairs.csv` in the folder of the data set.

    Raises:
      InputError: there is no such file.
    """
    if settings.pairs is not None:
        beside = folder / settings.pairs
        # A path that holds as it is written comes before the folder of protocol files.
        if settings.pairs.is_file() or beside.is_file():
            return [settings.pairs if settings.pairs.is_file() else beside]
        also = "" if beside == settings.pairs else f" or {beside}"
        raise InputError(f"--pairs: expected a list, found no file at {settings.pairs}{also}.")
    if dataset is None or not (dataset / "pairs.csv").exists():
        raise InputError(
            f"{name}: expected --pairs FILE, or a --dataset that a verification file was made "
            "into, found neither."
        )
    return [dataset / "pairs.csv"]


PROTOCOLS = (
    *(
        Protocol(
            name=name,
            title=title,
            dataset=name,
            file_names=(file,),
            options=PAIR_OPTIONS,
            scorer=_score,
        )
        for name, title, file in (
            ("agedb", "AgeDB-30", "agedb/agedb_30.txt"),
            ("calfw", "CALFW", "calfw/pairs_CALFW.txt"),
            ("cplfw", "CPLFW", "cplfw/pairs_CPLFW.txt"),
        )
    ),
    Protocol(
        name="pairs",
        title="Pairs",
        dataset=None,
        options=PAIR_OPTIONS | {"pairs", "folds"},
        find_files=_find_list,
        scorer=_score_any,
    ),
)
