"""Defines rules of other projects that merge images into templates, as plain data."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_columns, checked_features, unit_rows
from hyperface.metrics.threshold import checked_scores
from hyperface.protocols.templates import GroupedTemplates


class TemplateRule(NamedTuple):
    """A rule of the insightface project, which merges a template's images into one feature.

    A template is a set of images of one person; a medium is a photo or a video, whose frames are
    images. The rule weights the images' features, averages them within each medium, sums the means
    of the template's media, and scales the sum to unit length. The mean of a medium is not scaled.
    So a medium weighs less if its images differ, or if their features are short.
    """

    name: str
    """Name by which users choose the rule, a key of `TEMPLATE_RULES`."""
    norms: bool
    """True: features enter with the length that the network gave them, so that an image with a
    longer feature weighs more. False: each feature is scaled to unit length first."""
    detector: bool
    """True: each feature is multiplied by the score that the face detector gave the image's face.
    Such a rule needs detection scores. False: no detection scores are used."""

    def step(self) -> str:
        """Returns a sentence that describes the rule, for the procedure in a protocol's result."""
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
      One feature of unit length per template. `ids` are the templates in rising order.

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
    # A medium counts separately in each template that has images of it.
    changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
    starts = np.append(0, np.flatnonzero(changes) + 1)
    sizes = np.diff(np.append(starts, len(weighted)))
    # The sizes are cast, since whole numbers would make float32 features float64.
    means = np.add.reduceat(weighted, starts, axis=0) / sizes[:, None].astype(weighted.dtype)
    ids, first = np.unique(keys[0][starts], return_index=True)
    counted = f"{ids.size} templates of {len(features)} images in {len(means)} media"
    return GroupedTemplates(
        # A sum and not a mean: the length goes anyway.
        unit_rows(np.add.reduceat(means, first, axis=0)),
        ids,
        # Each template has one feature, so that fusion with K = 1 is its cosine.
        np.arange(ids.size + 1),
        (rule.step(), counted),
    )


def _checked_weights(detector: np.ndarray | None, images: int) -> np.ndarray:
    """Returns the scores of the face detector, [images, 1].

    Raises:
      ValueError: scores are missing, or a score is not finite and above zero.
    """
    if detector is None:
        raise ValueError("expected the detector's score of each image, found none")
    scores = checked_scores(detector, "detector")
    # A score of 0 could leave a template without a direction.
    if scores.size != images or scores.min() <= 0:
        raise ValueError(
            f"expected a detector's score above 0 for each of {images} images, found "
            f"{scores.size}, the lowest {scores.min():g}"
        )
    return scores[:, None]
