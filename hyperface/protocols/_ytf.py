"""YouTube Faces: pairs of videos."""

from pathlib import Path

from hyperface.protocols._lines import Line, expect_count, read_lines
from hyperface.protocols._pairlist import Pair, PairList, collect


def ytf_splits(path: Path | str, *, folds: int = 10, size: int = 250) -> PairList:
    """Reads `splits.txt`, with or without its header.

    A line is "fold, number, video, video, same", with fold and number from 1, in order; a video is
    `Sadie_Frost/1`, the folder of its frames.

    Args:
      path: the file.
      folds: how many folds it has.
      size: same pairs a fold, and different pairs.

    Returns:
      The pairs of videos in the file's order.

    Raises:
      InputError: naming the line that breaks these rules or repeats a pair.

    References:
      Wolf, Hassner, Maoz: Face recognition in unconstrained videos with matched background
      similarity, CVPR 2011.
    """
    lines = read_lines(path)
    fields = lines[0].fields(",")
    header = len(fields) == 5 and not any(field.isdigit() for field in fields)
    expect_count(lines, header, 2 * folds * size, f"pairs of videos ({folds} x {2 * size})")
    rows = lines[header:]
    pairs = [_pair(line, *divmod(row, 2 * size)) for row, line in enumerate(rows)]
    for fold in range(folds):
        part = pairs[2 * size * fold : 2 * size * (fold + 1)]
        same = sum(pair.same for pair in part)
        if same != size:
            raise part[0].line.fault(f"{size} same pairs in fold {fold + 1}", str(same))
    return collect(pairs)


def _pair(line: Line, fold: int, row: int) -> Pair:
    fields = line.fields(",")
    if len(fields) != 5:
        raise line.fault("fold, number, video, video, same")
    if fields[:2] != [str(fold + 1), str(row + 1)]:
        raise line.fault(f"pair {row + 1} of fold {fold + 1}", f"{fields[1]} of {fields[0]}")
    first, second = line.image(fields[2]), line.image(fields[3])
    same = line.whole(fields[4], "whether the person is the same", most=1) == 1
    if same != (first.split("/")[0] == second.split("/")[0]):
        raise line.fault(f"{'one person' if same else 'two people'} in a pair marked {fields[4]}")
    return Pair(line, first, second, same, fold)
