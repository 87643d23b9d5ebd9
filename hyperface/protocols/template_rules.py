"""Rules of other projects by which images become templates, as plain data."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_columns, checked_features, unit_rows
from hyperface.metrics.threshold import checked_scores
from hyperface.protocols.templates import GroupedTemplates


class TemplateRule(NamedTuple):
    """insightface's rule for templates: it averages each medium, and sums the means of the media.

    The mean of a medium is not scaled to unit length. So a medium weighs less if its images differ,
    or if their features are short.
    """

    name: str
    norms: bool
    """Whether an image weighs as much as its feature is long; else all features have length 1."""
    detector: bool
    """Whether an image weighs by the score that the detector gave its face, in addition."""

    def step(self) -> str:
        """Returns the procedure of the rule as a sentence."""
        weights = ["the norms of their features"] * self.norms
        weights += ["the scores of the face detector"] * self.detector
        weigh = f"weigh by {' and by '.join(weights)}" if weights else "are scaled to unit length"
        return (
            f"template rule {self.name}: images {weigh}; the mean of each medium is not scaled "
            "again, and the means of a template's media are summed"
        )


TEMPLATE_RULES = {
    rule.name: rule
    for rule in (
        TemplateRule("insightface", norms=True, detector=True),
        TemplateRule("insightface-norms", norms=True, detector=False),
        TemplateRule("insightface-unit", norms=False, detector=False),
    )
}
"""Rules by name. `insightface` is the default of the code behind its IJB-B and IJB-C tables; the
others are the choices of its options for weights."""


def group_by_rule(
    features: np.ndarray,
    template: np.ndarray,
    media: np.ndarray,
    rule: TemplateRule,
    detector: np.ndarray | None = None,
) -> GroupedTemplates:
    """Groups images, in any order, into templates of one feature each.

    Args:
      features: [images, dim] of any length.
      template: [images] template id.
      media: [images] media id, which the frames of one video share.
      rule: the rule, which states how images are weighed.
      detector: [images] detection scores in [0, 1], for a rule that needs them.

    Raises:
      ValueError: a feature is zero or not finite, all features are equal, lengths differ, or
        detection scores are missing or not above zero.

    Example:
      >>> features = np.array([[3.0, 0.0], [0.0, 4.0]])
      >>> found = group_by_rule(features, [7, 7], [0, 1], TEMPLATE_RULES["insightface-norms"])
      >>> print(found.features)
      [[0.6 0.8]]
    """
    features = checked_features(features)
    weighted = features if rule.norms else unit_rows(features)
    template, media = checked_columns(template=template, media=media)
    if template.size != len(features):
        raise ValueError(
            f"expected a template for each of {len(features)} images, found {template.size}"
        )
    if rule.detector:
        weighted = weighted * _checked_weights(detector, len(features))
    # lexsort takes the most important key last.
    order = np.lexsort((media, template))
    weighted, keys = weighted[order], (template[order], media[order])
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    starts = np.append(0, np.flatnonzero(changes) + 1)
    sizes = np.diff(np.append(starts, len(weighted)))
    means = np.add.reduceat(weighted, starts, axis=0) / sizes[:, None].astype(weighted.dtype)
    ids, first = np.unique(keys[0][starts], return_index=True)
    counted = f"{ids.size} templates of {len(features)} images in {len(means)} media"
    return GroupedTemplates(
        unit_rows(np.add.reduceat(means, first, axis=0)),
        ids,
        np.arange(ids.size + 1),
        (rule.step(), counted),
    )


def _checked_weights(detector: np.ndarray | None, images: int) -> np.ndarray:
    """Returns the scores [images, 1] of the face detector."""
    if detector is None:
        raise ValueError("expected the detector's score of each image, found none")
    scores = checked_scores(detector, "detector")
    if scores.size != images or scores.min() <= 0:
        raise ValueError(
            f"expected a detector's score above 0 for each of {images} images, found "
            f"{scores.size}, the lowest {scores.min():g}"
        )
    return scores[:, None]
