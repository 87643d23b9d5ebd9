"""Defines the rules by which the insightface project merges images into templates."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_features, unit_rows
from hyperface.metrics.threshold import checked_scores
from hyperface.protocols.templates import GroupedTemplates, sum_media


class TemplateRule(NamedTuple):
    """A rule of the insightface project, which merges a template's images into one feature.

    A template is a set of images of one person. A medium is a photo or a video, and the frames of a
    video are images. The rule weights the features of the images, and averages them within each
    medium. The sum of these means over the template's media is scaled to unit length. The means
    themselves are not scaled. So a medium weighs less if the features of its images have different
    directions or small norms.
    """

    name: str
    """Name by which users choose the rule, a key of `TEMPLATE_RULES`."""
    norms: bool
    """True: features keep their length, so that an image with a longer feature weighs more. False:
    each feature is scaled to unit length first."""
    detector: bool
    """True: each feature is multiplied by the score that the face detector gave the image's face.
    Such a rule needs detection scores. False: no detection scores are used."""

    def step(self) -> str:
        """Returns a sentence that describes the rule, for the `steps` of a protocol's result."""
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
"""Rules by name. `insightface` is the default of the project's code for its IJB-B and IJB-C tables.
The other rules are other values of that code's options for weights."""


def group_by_rule(
    features: np.ndarray,
    template: np.ndarray,
    media: np.ndarray,
    rule: TemplateRule,
    detector: np.ndarray | None = None,
) -> GroupedTemplates:
    """Merges the images of each template into one feature, by a rule of insightface.

    Args:
      features: [images, dim] features of any norm, in any order.
      template: [images] id of the template that each image belongs to.
      media: [images] id of the medium; the frames of one video share it. A medium counts separately
        in each template.
      rule: the rule that weights and merges images.
      detector: [images] score above 0 that the face detector gave each image's face. Required if
        `rule.detector` is True, else not used.

    Returns:
      One feature of unit length per template. The field `ids` has the ids of the templates, in
      rising order.

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
    if rule.detector:
        weighted = weighted * _checked_weights(detector, features)
    sums, sizes, template = sum_media(weighted, template, media)
    # The sizes are cast, since whole numbers would make float32 features float64.
    means = sums / sizes[:, None].astype(sums.dtype)
    ids, first = np.unique(template, return_index=True)
    counted = f"{ids.size} templates of {len(features)} images in {len(means)} media"
    return GroupedTemplates(
        # A sum and not a mean: the length goes anyway.
        unit_rows(np.add.reduceat(means, first, axis=0)),
        ids,
        # Each template has one feature, so that fusion with K = 1 is its cosine.
        np.arange(ids.size + 1),
        (rule.step(), counted),
        merged=True,
    )


def _checked_weights(detector: np.ndarray | None, features: np.ndarray) -> np.ndarray:
    """Returns the scores of the face detector, [images, 1] in the type of the features.

    Raises:
      ValueError: scores are missing, or a score is not finite and above zero.
    """
    if detector is None:
        raise ValueError("expected the detector's score of each image, found none")
    # Cast before the check: float64 scores would make float32 features float64, twice the memory,
    # and the smallest of them are 0 in float32.
    scores = checked_scores(detector, "detector").astype(features.dtype, copy=False)
    # A score of 0 could leave a template without a direction.
    if scores.size != len(features) or scores.min() <= 0:
        raise ValueError(
            f"expected a detector's score above 0 for each of {len(features)} images, found "
            f"{scores.size}, the lowest {scores.min():g}"
        )
    return scores[:, None]
