"""Scores videos by all their frames: YouTube Faces, and halves of people's images as videos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.roc import roc
from hyperface.protocols._lines import Line, expect_count, read_lines
from hyperface.protocols.features import NamedFeatures, person_of
from hyperface.protocols.frames import verify_videos
from hyperface.protocols.pair_list import Pair, PairList, collect
from hyperface.protocols.protocol import Protocol, Settings
from hyperface.protocols.result import OVER_FOLDS, Figure, Result, pair_counts

FRAMES = 10
"""Fewest images of a person that are split into two videos."""
FOLDS = 10
"""Number of folds of the halves."""
SINGLE = 100
"""Number of single pairs of each kind whose histograms are kept; NormFace, Figure 9b, shows 200."""


def read_ytf_splits(path: Path | str, *, folds: int = 10, size: int = 250) -> PairList:
    """Reads `splits.txt`, the pair list of YouTube Faces (YTF), with or without its header.

    A line is "fold, number, video, video, same". The folds (groups of pairs) are numbered from 1,
    and the pairs of a fold are numbered from 1; the lines are in this order. A video is named by
    the folder of its frames, such as `Sadie_Frost/1`. The last field is 1 if both videos show one
    person, else 0.

    Args:
      path: the file.
      folds: number of folds that the file must have.
      size: number of pairs of one person that each fold must have, and of pairs of two people.

    Returns:
      The pairs of videos in the file's order.

    Raises:
      InputError: a line breaks these rules or repeats a pair. The message names the line.

    References:
      Wolf, Hassner, Maoz: Face recognition in unconstrained videos with matched background
      similarity, CVPR 2011.
    """
    lines = read_lines(path)
    fields = lines[0].fields(",")
    # A header has names only, and each pair has three numbers.
    header = len(fields) == 5 and not any(field.isdigit() for field in fields)
    expect_count(lines, header, 2 * folds * size, f"pairs of videos ({folds} x {2 * size})")
    rows = lines[header:]
    pairs = [_ytf_pair(line, *divmod(row, 2 * size)) for row, line in enumerate(rows)]
    for fold in range(folds):
        part = pairs[2 * size * fold : 2 * size * (fold + 1)]
        same = sum(pair.same for pair in part)
        if same != size:
            raise part[0].line.fault(f"{size} same pairs in fold {fold + 1}", str(same))
    return collect(pairs)


def _ytf_pair(line: Line, fold: int, row: int) -> Pair:
    fields = line.fields(",")
    if len(fields) != 5:
        raise line.fault("fold, number, video, video, same")
    # Checked, since pairs are assigned to folds by their place in the file.
    if fields[:2] != [str(fold + 1), str(row + 1)]:
        raise line.fault(f"pair {row + 1} of fold {fold + 1}", f"{fields[1]} of {fields[0]}")
    first, second = line.image(fields[2]), line.image(fields[3])
    same = line.whole(fields[4], "whether the person is the same", most=1) == 1
    if same != (person_of(first) == person_of(second)):
        raise line.fault(f"{'one person' if same else 'two people'} in a pair marked {fields[4]}")
    return Pair(line, first, second, same, fold)


def _score_ytf(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Scores YouTube Faces, whose frames are named person/video/frame."""
    videos = ["/".join(image.split("/")[:2]) for image in named.names]
    return _score(name, named, videos, read_ytf_splits(files[0]), settings)


def _score_halves(
    name: str, named: NamedFeatures, files: Sequence[Path], settings: Settings
) -> Result:
    """Scores the halves of each person's images as two videos, by the rules of NormFace, 5.3.

    People with at least ten images take part, in ten folds at random. Each person gives one same
    pair and one different pair.
    """
    places: dict[str, list[int]] = {}
    # By name, so that the videos do not depend on the order of the features.
    for place in map(int, np.argsort(named.names)):
        places.setdefault(person_of(named.names[place]), []).append(place)
    chosen = [person for person, found in places.items() if len(found) >= FRAMES]
    # A fold needs two people for its different pairs.
    if len(chosen) < 2 * FOLDS:
        raise InputError(
            f"{name}: expected {2 * FOLDS} people or more with at least {FRAMES} images, named "
            f"person/file, found {len(chosen)}."
        )
    videos = [""] * len(named.names)
    for person in chosen:
        for order, place in enumerate(places[person]):
            videos[place] = f"{person}/{order % 2}"
    # People with too few images have no videos.
    rows = np.array([place for place, video in enumerate(videos) if video])
    some = named.take(rows)._replace(
        steps=(
            *named.steps,
            f"{len(chosen)} people with at least {FRAMES} images; every other image of a person is "
            "a frame of one video, the rest of another",
        ),
    )
    return _score(name, some, [videos[row] for row in rows], half_pairs(chosen), settings)


def half_pairs(people: Sequence[str]) -> PairList:
    """Returns two pairs of videos per person, one same and one different, in ten folds of people.

    The two halves of a person's images are treated as two videos, named PERSON/0 and PERSON/1. The
    same pair has these two videos. The different pair has the first video of the person and the
    second video of another person in the same fold (group of people). People are put into folds at
    random, but with a fixed seed, so that every run has the same folds.

    Args:
      people: names of the people, at least 20, so that each fold has two or more.
    """
    # A fixed seed, so that the folds are the same in every run.
    dealt = np.random.default_rng(0).permutation(len(people))
    first, second, same, fold = [], [], [], []
    for number in range(FOLDS):
        # At least two people are in each fold, so that each has a next person.
        members = [people[i] for i in dealt[number::FOLDS]]
        for person, other in zip(members, members[1:] + members[:1], strict=True):
            first += [f"{person}/0", f"{person}/0"]
            second += [f"{person}/1", f"{other}/1"]
            same += [True, False]
            fold += [number, number]
    return PairList(first, second, np.array(same), np.array(fold))


def _check(name: str, settings: Settings) -> None:
    """Raises InputError for rules that fit image pairs only, before features are computed."""
    if settings.video_rules().threshold == "grid":
        raise InputError(
            f"{name}: expected another --preset than insightface, whose grid is of distances "
            "between single images."
        )


def _score(
    name: str,
    named: NamedFeatures,
    videos: Sequence[str],
    pairs: PairList,
    settings: Settings,
) -> Result:
    ids = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    missing = sorted({*pairs.first, *pairs.second} - ids.keys())
    if missing:
        raise InputError(
            f"{name}: expected frames of every video, named person/video/frame, found none of "
            f"{missing[0]!r} ({len(missing)} videos are missing)."
        )
    video = np.array([ids[one] for one in videos])
    first, second = (np.array([ids[one] for one in side]) for side in pairs[:2])
    rules = settings.video_rules()
    found = verify_videos(
        named.features,
        video,
        first,
        second,
        pairs.same,
        pairs.fold,
        # PCA is not computed for videos, but the mean is subtracted that it would remove.
        subtract_mean=rules.subtract_mean or rules.pca is not None,
        threshold=rules.threshold,
        progress=settings.progress,
    )
    return Result(
        protocol=name,
        figures={
            f"accuracy, {rule}": Figure(folds.mean, folds.standard_error)
            for rule, folds in found.folds.items()
        },
        steps=(
            *named.steps,
            *found.steps,
            *guess_warning(
                "accuracy, mean", found.folds["mean"].mean, 0.5, pairs.same.size, least=0.02
            ),
        ),
        spread=OVER_FOLDS,
        curves={rule: roc(scores, pairs.same) for rule, scores in found.scores.items()},
        counts={"videos": len(ids), **pair_counts(pairs.same)},
        details={
            **{
                f"fold accuracies, {rule}": folds.accuracy.tolist()
                for rule, folds in found.folds.items()
            },
            "histograms": {
                kind: {
                    "mean": np.mean(found.histograms[chosen], axis=0).tolist(),
                    "deviation": np.std(found.histograms[chosen], axis=0, ddof=1).tolist(),
                    "single": _some(found.histograms[chosen]),
                }
                for kind, chosen in (("same", pairs.same), ("different", ~pairs.same))
            },
        },
    )


def _some(histograms: np.ndarray) -> list[list[float]]:
    """Returns at most SINGLE of the histograms [pairs, BINS], evenly spaced, with five decimals."""
    rows = np.linspace(0, len(histograms) - 1, min(SINGLE, len(histograms))).astype(int)
    return np.round(histograms[rows].astype(np.float64), 5).tolist()


PROTOCOLS = (
    Protocol(
        name="ytf",
        title="YTF, 5,000 video pairs",
        dataset="ytf",
        file_names=("ytf/splits.txt",),
        options=frozenset({"preset"}),
        check=_check,
        scorer=_score_ytf,
    ),
    Protocol(
        name="halves",
        title="Halves of each person's images as two videos",
        dataset="lfw",
        options=frozenset({"preset"}),
        check=_check,
        scorer=_score_halves,
    ),
)
