"""Draws histograms of a data set: images per identity, and distances to the class means."""

import numpy as np
from matplotlib.figure import Figure

from hyperface.report.canvas import COLOURS, count_on, panels


def images_per_identity(counts: np.ndarray) -> Figure:
    """Draws a histogram of the number of images per identity.

    Both axes are logarithmic if the largest and the smallest count differ by 59 or more.

    Args:
      counts: [identities] number of images of each identity, at least 1.
    """
    figure, (axes,) = panels()
    edges = np.arange(counts.min(), counts.max() + 2)
    if edges.size > 60:
        # Small edges become equal when they are cut to whole numbers.
        edges = np.unique(np.geomspace(edges[0], edges[-1], 40).astype(int))
        axes.set(xscale="log", yscale="log")
    # Edges between whole numbers, so that each bar stands on its number of images.
    axes.hist(counts, (edges - 0.5).tolist(), color=COLOURS[0], edgecolor="white", linewidth=0.4)
    count_on(axes.xaxis, axes.yaxis)
    axes.set(xlabel="images of an identity", ylabel="identities")
    axes.set_title(
        f"{counts.size:,} identities, {counts.sum():,} images, median {np.median(counts):g}"
    )
    return figure


def distance_histogram(
    class_distances: np.ndarray, image_distances: np.ndarray, thresholds: tuple[float, float]
) -> Figure:
    """Draws histograms of the squared distances of features to the mean feature of their class.

    A class is a person. The left panel shows classes, the right panel images, each with the
    threshold above which classes or images are left out of the cleaned data set.

    Args:
      class_distances: [classes] mean squared distance per class; NaN for a class without images.
      image_distances: [images] squared distance per image.
      thresholds: (threshold of classes, threshold of images). Infinity drops none and is not
        drawn.
    """
    figure, beside = panels(1, 2)
    drawn = ("classes", class_distances[~np.isnan(class_distances)]), ("images", image_distances)
    for axes, (name, values), threshold in zip(beside, drawn, thresholds, strict=True):
        axes.hist(values, bins=60, color=COLOURS[0])
        if np.isfinite(threshold):
            above = np.sum(values > threshold)
            label = f"above {threshold:.3g}: {above:,} of {values.size:,}"
            axes.axvline(threshold, color=COLOURS[1], linestyle="--", label=label)
            axes.legend()
        axes.set(ylabel=name, title=f"{values.size:,} {name}")
        if values.size:
            # The axis starts below 1, so that a bar of one image has a height.
            axes.set(yscale="log", ylim=(0.7, None))
    beside[0].set_xlabel("mean squared distance to the class mean")
    beside[1].set_xlabel("squared distance to the class mean")
    return figure
