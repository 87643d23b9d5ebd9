"""Videos matched frame by frame: YTF, and any people's images taken as two videos each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hyperface.errors import InputError
from hyperface.metrics.chance import guess_warning
from hyperface.metrics.roc import roc
from hyperface.protocols import readers
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.frames import group_frames, video_similarities
from hyperface.protocols.readers import PairList
from hyperface.protocols.result import Figure, Scored, pair_counts
from hyperface.protocols.settings import OVER_FOLDS, Settings
from hyperface.protocols.video import verify_videos

FRAMES = 10
"""Images a person needs for two videos."""
FOLDS = 10
SINGLE = 100
"""Histograms of single pairs of each kind that are kept: NormFace, Figure 9b, has 200 in all."""


def ytf(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """Frames are named person/video/frame."""
    videos = ["/".join(image.split("/")[:2]) for image in named.names]
    return _scored(name, named, videos, readers.ytf_splits(paths[0]), settings)


def halves(name: str, named: NamedFeatures, paths: Sequence[Path], settings: Settings) -> Scored:
    """The halves of a person's images stand for two videos: NormFace's 5.3 where no video is.

    People with ten images and more take part, in ten folds at random. A pair of the same and one of
    different people, of a fold each, is made of every person.
    """
    people = [image.partition("/")[0] for image in named.names]
    places: dict[str, list[int]] = {}
    for place in np.argsort(named.names):
        places.setdefault(people[place], []).append(int(place))
    chosen = [person for person, found in places.items() if len(found) >= FRAMES]
    if len(chosen) < 2 * FOLDS:
        raise InputError(
            f"{name}: expected {2 * FOLDS} people or more with at least {FRAMES} images, named "
            f"person/file, found {len(chosen)}."
        )
    videos = [""] * len(named.names)
    for person in chosen:
        for order, place in enumerate(places[person]):
            videos[place] = f"{person}/{order % 2}"
    rows = np.array([place for place, video in enumerate(videos) if video])
    some = NamedFeatures(
        [named.names[row] for row in rows],
        named.features[rows],
        (
            *named.steps,
            f"{len(chosen)} people with at least {FRAMES} images; every other image of a person is "
            "a frame of one video, the rest of another",
        ),
    )
    return _scored(name, some, [videos[row] for row in rows], _half_pairs(chosen), settings)


def _half_pairs(people: Sequence[str]) -> PairList:
    """Each person's two videos, and the first with the second of another of the fold."""
    dealt = np.random.default_rng(0).permutation(len(people))
    first, second, same, fold = [], [], [], []
    for number in range(FOLDS):
        members = [people[i] for i in dealt[number::FOLDS]]
        for person, other in zip(members, members[1:] + members[:1], strict=True):
            first += [f"{person}/0", f"{person}/0"]
            second += [f"{person}/1", f"{other}/1"]
            same += [True, False]
            fold += [number, number]
    return PairList(tuple(first), tuple(second), np.array(same), np.array(fold))


def _scored(
    name: str,
    named: NamedFeatures,
    videos: Sequence[str],
    pairs: PairList,
    settings: Settings,
) -> Scored:
    ids = {video: place for place, video in enumerate(dict.fromkeys(videos))}
    missing = sorted({*pairs.first, *pairs.second} - ids.keys())
    if missing:
        raise InputError(
            f"{name}: expected frames of every video, named person/video/frame, found none of "
            f"{missing[0]!r} ({len(missing)} videos are missing)."
        )
    video = np.array([ids[one] for one in videos])
    first, second = (np.array([ids[one] for one in side]) for side in pairs[:2])
    steps = settings.steps()
    found = verify_videos(
        named.features,
        video,
        first,
        second,
        pairs.same,
        pairs.fold,
        subtract_mean=steps.subtract_mean or steps.pca is not None,
        threshold=steps.threshold,
        progress=settings.progress,
    )
    shares = video_similarities(group_frames(named.features, video), first, second).histogram
    return Scored(
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
                    "mean": np.mean(shares[chosen], axis=0).tolist(),
                    "deviation": np.std(shares[chosen], axis=0, ddof=1).tolist(),
                    "single": _some(shares[chosen]),
                }
                for kind, chosen in (("same", pairs.same), ("different", ~pairs.same))
            },
        },
    )


def _some(histograms: np.ndarray) -> list[list[float]]:
    """At most SINGLE rows, spread evenly over all, to five digits after the point."""
    places = np.linspace(0, len(histograms) - 1, min(SINGLE, len(histograms))).astype(int)
    return np.round(histograms[places].astype(np.float64), 5).tolist()
