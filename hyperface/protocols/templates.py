"""Groups images into templates, which are sets of images of a person, and scores template pairs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import (
    checked_columns,
    checked_features,
    checked_same,
    positions,
    unit_rows,
)
from hyperface.metrics.progress import Progress
from hyperface.metrics.splits import PairRates, pair_rates

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""False accept rates that IJB tables report."""

MOST_GAMMAS = 40
"""Largest K; up to here the smallest weight, exp(-2 gamma), is a normal float32."""

BLOCK_COSINES = 2**20
BLOCK_IMAGES = 2**14
"""Largest number of cosines, and of images on one side, that are computed at once."""


class GroupedTemplates(NamedTuple):
    """Features of images, grouped by template. A template is a set of images of one person."""

    features: np.ndarray
    """[images, dim] features of unit length; the images of a template are adjacent rows. A row
    may be the mean of several images, such as the frames of a video."""
    ids: np.ndarray
    """[templates] ids of the templates, in rising order."""
    starts: np.ndarray
    """[templates + 1] positions in `features`: template i has the rows from starts[i] up to, but
    without, starts[i + 1]."""
    steps: tuple[str, ...]
    """A description of how the images were merged, one sentence per step."""
    merged: bool = False
    """Whether each template has one feature, which a `TemplateRule` has merged from its images."""

    def means(self) -> np.ndarray:
        """Returns [templates, dim], the mean feature of each template, scaled to unit length."""
        # The sum has the direction of the mean, and the length goes anyway.
        return unit_rows(np.add.reduceat(self.features, self.starts[:-1], axis=0))


def score_step(gammas: int | None, *, merged: bool) -> str:
    """Returns a sentence that describes the score of two templates, for the `steps` of a result.

    Args:
      gammas: K, the number of terms in the Ring loss paper's score of two templates: a sum of
        weighted means of the cosines of their images (formula in `template_scores`). None if the
        score is the cosine of the templates' mean features.
      merged: whether a `TemplateRule` has merged each template into one feature. If so, the
        sentence does not mention mean features.
    """
    if gammas is not None:
        return f"score is the sum over gamma = 1..{gammas} of softmax(gamma s)-weighted cosines s"
    return f"score is the cosine of the templates' {'' if merged else 'mean '}features"


def group_templates(
    features: np.ndarray, template: np.ndarray, media: np.ndarray | None = None
) -> GroupedTemplates:
    """Groups images by template, and merges the images of each medium if `media` is given.

    Args:
      features: [images, dim] of any norm, in any order. An image that is in two templates must be
        in the array twice.
      template: [images] id of the template that each image belongs to.
      media: [images] id of the medium (a photo or a video) of each image; frames of one video share
        it. Each medium of a template then counts as one image, whose feature is the mean of its
        images' unit features, scaled to unit length. None keeps all images.

    Raises:
      ValueError: a feature is zero or not finite, all features are equal, or lengths differ.
    """
    unit = unit_rows(checked_features(features))
    sums, _, template = sum_media(unit, template, media)
    steps = ("images scaled to unit length",)
    if media is not None:
        # The sum has the direction of the mean.
        sums = unit_rows(sums)
        steps = (*steps, f"{len(unit)} images averaged within {len(sums)} media, to unit length")
    ids, starts = np.unique(template, return_index=True)
    counted = f"{ids.size} templates of {len(sums)} images"
    return GroupedTemplates(sums, ids, np.append(starts, len(sums)), (*steps, counted))


def sum_media(
    features: np.ndarray, template: np.ndarray, media: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums the features of each medium (photo or video), separately for each of its templates.

    Args:
      features: [images, dim] in any order.
      template: [images] id of the template that each image belongs to.
      media: [images] id of the medium of each image. With None each image is a medium of its own.

    Returns:
      (sums [media, dim], numbers of images [media], template ids [media] in rising order).

    Raises:
      ValueError: lengths differ.
    """
    columns = {"template": template} if media is None else {"template": template, "media": media}
    keys = checked_columns(**columns)
    if keys[0].size != len(features):
        raise ValueError(
            f"expected a template for each of {len(features)} images, found {keys[0].size}"
        )
    # lexsort takes the most important key last.
    order = np.lexsort(keys[::-1])
    features, keys = features[order], [key[order] for key in keys]
    if media is None:
        return features, np.ones(len(features), np.int64), keys[0]
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    starts = np.append(0, np.flatnonzero(changes) + 1)
    sizes = np.diff(np.append(starts, len(features)))
    # Sums over whole runs, since images are sorted by template and medium.
    return np.add.reduceat(features, starts, axis=0), sizes, keys[0][starts]


class TemplateVerification(NamedTuple):
    """The result of verification (1:1) on template pairs."""

    scores: np.ndarray
    """[pairs] similarity of each pair, higher for pairs that are more alike. It lies in [-1, 1] for
    the cosine of mean features, and in [-K, K] for the score of the Ring loss paper, a sum of K
    weighted means of cosines."""
    rates: PairRates
    """EER, AUC and TAR at each FAR, for each split."""
    steps: tuple[str, ...]
    """A description of the computation, one sentence per step."""


def template_scores(
    templates: GroupedTemplates,
    first: np.ndarray,
    second: np.ndarray,
    *,
    gammas: int | None = 8,
    progress: Progress | None = None,
) -> np.ndarray:
    """Computes the score S of each pair of templates (sets of images) by Ring loss' fusion.

        S = sum_{g = 1..K} (sum_s s exp(g s) / sum_s exp(g s))

    s is the cosine of an image of one template and an image of the other; sum_s is over all such
    pairs of images. The computation uses exp(g s - g) in place of exp(g s). This does not change S,
    and no weight exceeds 1. Two templates of one image each have the score K s.

    Args:
      templates: as `group_templates` returns them.
      first: [pairs] id of one template.
      second: [pairs] id of the other template.
      gammas: K, the number of terms. The paper has 8 for IJB-A and 2 for Janus CS3. With None the
        score is the cosine of the templates' mean features instead.
      progress: called with (number of finished pairs, number of all pairs).

    Returns:
      [pairs] scores in [-K, K], or cosines if `gammas` is None.

    Raises:
      ValueError: a template has no images, lengths differ, or `gammas` is outside 1 to 40
        (MOST_GAMMAS).

    Example:
      >>> templates = group_templates(np.eye(2), [5, 9])
      >>> print(template_scores(templates, [5, 5], [5, 9]))
      [8. 0.]

    References:
      Zheng et al., Ring loss: Convex Feature Normalization for Face Recognition, CVPR 2018, section
      4.
    """
    first, second = checked_columns(first=first, second=second)
    first, second = (positions(templates.ids, ids, "template") for ids in (first, second))
    gammas, templates = _checked_gammas(gammas, templates)
    if (
        np.unique(second).size < np.unique(first).size
    ):  # Scores are symmetric: group by the side with fewer templates.
        first, second = second, first
    order = np.argsort(first, kind="stable")
    _, starts = np.unique(first[order], return_index=True)
    scores, done = np.empty(first.size, templates.features.dtype), 0
    # Pairs of one template are scored together: its features meet all others in one product.
    for pairs in np.split(order, starts[1:]):
        row = first[pairs[:1]]
        for part in _blocks(templates, second[pairs], len(_images(templates, row)[0])):
            scores[pairs[part]] = _fused(templates, row, second[pairs[part]], gammas)[0]
        done += pairs.size
        if progress:
            progress(done, first.size)
    return scores


def score_matrix(
    templates: GroupedTemplates,
    probes: np.ndarray,
    gallery: np.ndarray,
    *,
    gammas: int | None = 8,
    progress: Progress | None = None,
) -> np.ndarray:
    """Computes the score of every probe template with every gallery template, for 1:N search.

    A template is a set of images of one person. Probes are the templates that are searched.

    Args:
      templates: as `group_templates` returns them.
      probes: [probes] ids of the templates that are searched.
      gallery: [gallery] ids of the templates among which they are searched.
      gammas: K, the number of terms in the Ring loss paper's score of two templates: a sum of
        weighted means of the cosines of their images (formula in `template_scores`). With None, the
        score is the cosine of the templates' mean features.
      progress: called with (number of finished probes, number of all probes).

    Returns:
      [probes, gallery] scores in [-K, K], or cosines if `gammas` is None.

    Raises:
      ValueError: a template has no images, or `gammas` is outside 1 to MOST_GAMMAS (40).
    """
    (probes,), (gallery,) = checked_columns(probes=probes), checked_columns(gallery=gallery)
    probes, gallery = (positions(templates.ids, ids, "template") for ids in (probes, gallery))
    gammas, templates = _checked_gammas(gammas, templates)
    scores = np.empty((probes.size, gallery.size), templates.features.dtype)
    # A square of images has the most cosines for the features that are read.
    side = int(np.sqrt(BLOCK_COSINES))
    for rows in _blocks(templates, probes, side):
        for columns in _blocks(templates, gallery, side):
            scores[rows, columns] = _fused(templates, probes[rows], gallery[columns], gammas)
        if progress:
            progress(rows.stop, probes.size)
    return scores


def verify_templates(
    templates: GroupedTemplates,
    first: np.ndarray,
    second: np.ndarray,
    same: np.ndarray,
    split: np.ndarray,
    *,
    gammas: int | None = 8,
    fars: Sequence[float] = FARS,
    progress: Progress | None = None,
) -> TemplateVerification:
    """Computes the scores of pairs of templates (1:1), and the TAR at each FAR on each split.

    A template is a set of images of one person. TAR is the share of pairs of one person that are
    accepted, and FAR the share of pairs of two people that are accepted.

    Args:
      templates: as `group_templates` returns them.
      first: [pairs] id of one template.
      second: [pairs] id of the other template.
      same: [pairs] bool, True where both templates show one person.
      split: [pairs] id of the split (part of the protocol) of each pair. Each split has its own
        thresholds. Give all pairs the same id to compute the rates of all pairs together.
      gammas: K, the number of terms in the Ring loss paper's score of two templates: a sum of
        weighted means of the cosines of their images (formula in `template_scores`). With None, the
        score is the cosine of the templates' mean features.
      fars: false accept rates in [0, 1]; by default 1e-6, 1e-5, ... 0.1.
      progress: called with (number of finished pairs, number of all pairs).

    Raises:
      ValueError: a template has no images, lengths differ, `gammas` is outside 1 to MOST_GAMMAS
        (40), a rate is outside [0, 1], or the pairs of a split all show one person or all show two
        people.
    """
    first, second, same, split = checked_columns(first=first, second=second, same=same, split=split)
    same = checked_same(same)
    scores = template_scores(templates, first, second, gammas=gammas, progress=progress)
    rates = pair_rates(scores, same, split, fars)
    unsupported = ", ".join(f"{far:g}" for far in rates.unsupported()) or "none"
    steps = (
        *templates.steps,
        score_step(gammas, merged=templates.merged),
        f"{same.size} pairs ({same.sum()} same) in {np.unique(split).size} splits",
        f"FAR with too few different pairs in a split, measured at no false accept: {unsupported}",
    )
    return TemplateVerification(scores, rates, steps)


def _checked_gammas(
    gammas: int | None, templates: GroupedTemplates
) -> tuple[int, GroupedTemplates]:
    """Returns (K, templates to fuse).

    If `gammas` is None, K is 1 and each template has its mean feature as its only image. The fusion
    is then the cosine of both means.

    Raises:
      ValueError: `gammas` is outside 1 to MOST_GAMMAS.
    """
    if gammas is None:
        means = templates.means()
        return 1, templates._replace(features=means, starts=np.arange(len(means) + 1))
    if not 1 <= gammas <= MOST_GAMMAS:
        raise ValueError(f"expected gammas from 1 to {MOST_GAMMAS}, found {gammas}")
    return gammas, templates


def _blocks(templates: GroupedTemplates, index: np.ndarray, beside: int) -> Iterator[slice]:
    """Yields slices of `index` whose cosines with `beside` images fit into one block.

    Args:
      templates: the templates.
      index: positions of templates.
      beside: number of images that each image of the slice is compared with.
    """
    most = max(1, min(BLOCK_IMAGES, BLOCK_COSINES // beside))
    ends = np.cumsum(np.diff(templates.starts)[index])
    start = 0
    while start < index.size:
        before = ends[start - 1] if start else 0
        # At least one template, even where it alone is larger than a block.
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop


def _images(templates: GroupedTemplates, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (rows, starts) of the images of the templates at the positions `index`.

    `rows` are positions in `templates.features`, template by template. `starts` [index] is where
    the rows of each template start in `rows`.
    """
    sizes = np.diff(templates.starts)[index]
    ends = np.cumsum(sizes)
    # One range of rows per template, without a loop: a running number plus an offset.
    rows = np.arange(ends[-1]) + np.repeat(templates.starts[index] - (ends - sizes), sizes)
    return rows, ends - sizes


def _fused(
    templates: GroupedTemplates, rows: np.ndarray, columns: np.ndarray, gammas: int
) -> np.ndarray:
    """Returns the fused scores [rows, columns] of all templates at `rows` with all at `columns`."""
    (one, one_starts), (other, other_starts) = (
        _images(templates, index) for index in (rows, columns)
    )
    cosines = templates.features[one] @ templates.features[other].T

    def total(values: np.ndarray) -> np.ndarray:
        # Sums over runs, since the images of a template are adjacent.
        down = np.add.reduceat(values, one_starts, axis=0)
        return np.add.reduceat(down, other_starts, axis=1)

    # exp of at most 0: a common factor of all weights cancels, and nothing overflows.
    step = np.exp(cosines - 1.0)
    weights, score = step, 0.0
    for _ in range(gammas):
        score = score + total(weights * cosines) / total(weights)
        # The next gamma's weights by one product in place of an exponential.
        weights = weights * step
    return np.asarray(score)
