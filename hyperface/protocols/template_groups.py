"""Images grouped by template, the set of images that IJB-A and its successors match as one."""

from typing import NamedTuple

import numpy as np

from hyperface.metrics._checks import checked_columns, checked_features, unit_rows


class Templates(NamedTuple):
    """Features of images, grouped by template."""

    features: np.ndarray
    """[images, dim] at unit length, a template's after one another."""
    ids: np.ndarray
    """[templates] rising."""
    starts: np.ndarray
    """[templates + 1] where each template's images start, and their number."""
    steps: tuple[str, ...]
    """What was done, a sentence each."""

    def means(self) -> np.ndarray:
        """[templates, dim] mean of each template's features, at unit length."""
        return unit_rows(np.add.reduceat(self.features, self.starts[:-1], axis=0))


def group_templates(
    features: np.ndarray, template: np.ndarray, media: np.ndarray | None = None
) -> Templates:
    """Groups images, in any order, by template; those of one media by their mean, if given.

    Args:
      features: [images, dim] of any length. An image that is in two templates is given twice.
      template: [images] template id.
      media: [images] media id: the frames of one video share theirs. Each medium of a template then
        counts as one image, the mean of its images at unit length. None keeps all images.

    Raises:
      ValueError: a feature is zero or not finite, all are equal, or lengths differ.
    """
    unit = unit_rows(checked_features(features))
    columns = {"template": template} if media is None else {"template": template, "media": media}
    keys = checked_columns(**columns)
    if keys[0].size != len(unit):
        raise ValueError(
            f"expected a template for each of {len(unit)} images, found {keys[0].size}"
        )
    order = np.lexsort(keys[::-1])
    unit, keys = unit[order], [key[order] for key in keys]
    steps = ("images scaled to unit length",)
    if media is not None:
        changes = np.any([np.diff(key) != 0 for key in keys], axis=0)
        starts = np.append(0, np.flatnonzero(changes) + 1)
        pooled = unit_rows(np.add.reduceat(unit, starts, axis=0))
        steps = (*steps, f"{len(unit)} images averaged within {len(pooled)} media, to unit length")
        unit, keys = pooled, [keys[0][starts]]
    ids, starts = np.unique(keys[0], return_index=True)
    counted = f"{ids.size} templates of {len(unit)} images"
    return Templates(unit, ids, np.append(starts, len(unit)), (*steps, counted))
