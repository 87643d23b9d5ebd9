"""Builds the tables and the figure on the feature norm as the quality of images."""

import math
from collections.abc import Mapping
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from hyperface.metrics.quality import MOST_LEFT_OUT, NormQuality
from hyperface.report.canvas import COLOURS, panels
from hyperface.report.tables import Table, percent

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5)
"""Shares of genuine pairs that are left out, one per column of the table."""
SHOWN_SHARE = 0.3
"""Share of genuine pairs that is left out in the table of resolutions."""


def quality_table(title: str, found: NormQuality) -> Table:
    """Returns a table that shows whether a small feature norm is a sign of a poor image.

    A genuine pair has two images of one person. It is refused if its similarity is below the
    threshold. The norm of a pair is the smaller norm of its two images. Each row is for an order in
    which genuine pairs are left out: lowest norm first, highest norm first, at random, or refused
    pairs first (the best possible order). Each column is for a share of pairs that is left out, and
    a cell has the refused share of the remaining pairs. The last column is the mean over shares.

    Args:
      title: title of the protocol, which begins the title of the table.
      found: the measured relation of feature norm and quality.
    """
    rows = [
        (order, *(percent(curve.at(share)) for share in SHARES), percent(curve.mean()))
        for order, curve in found.curves.items()
    ]
    header = (
        "genuine pairs left out",
        *(f"{100 * share:g} %" for share in SHARES),
        f"mean, 0 to {100 * MOST_LEFT_OUT:g} %",
    )
    note = (
        f"Share of the genuine pairs that are refused at the threshold of FAR {100 * found.far:g} "
        "%, among those that are kept when this share is left out. If the norm tells quality, it "
        "falls when the lowest norms are left out first, and rises when the highest are. The "
        "oracle leaves out refused pairs first, and no order is better. Rank correlation of the "
        f"smaller norm of a pair with its score: {_correlation(found.genuine)} for genuine and "
        f"{_correlation(found.impostor)} for impostor pairs. Norms: {found.mean:.3g} ± "
        f"{found.deviation:.2g}."
    )
    return Table(f"{title}: feature norm as quality", header, rows, note)


def resolution_table(found: Mapping[str, tuple[float, NormQuality]]) -> Table:
    """Returns a table that shows how feature norms depend on the resolution, one row per protocol.

    The norm of a pair is the smaller norm of its two images. A row has the mean norm of the images,
    and the rank correlations of the pairs' norms with their similarities. It also has the share of
    pairs of one person that are refused: among all such pairs, and among those that remain when the
    30 % with the lowest norms are left out.

    Args:
      found: title of a protocol -> (factor by which the area of its images was reduced, the
        measured relation of norm and quality).
    """
    rows = []
    for title, (area, quality) in found.items():
        # The first order leaves out the lowest norms first.
        lowest = next(iter(quality.curves.values()))
        rows.append(
            (
                title,
                f"{area:g}",
                f"{quality.mean:.3g} ± {quality.deviation:.2g}",
                _correlation(quality.genuine),
                _correlation(quality.impostor),
                percent(lowest.at(0.0)),
                percent(lowest.at(SHOWN_SHARE)),
            )
        )
    header = (
        "protocol",
        "area divided by",
        "mean norm",
        "correlation, genuine",
        "correlation, impostor",
        "refused",
        f"refused without the lowest {100 * SHOWN_SHARE:g} %",
    )
    note = (
        "Correlations are rank correlations of a pair's smaller norm with its score, at each "
        "resolution by itself. Refused are genuine pairs at the threshold of that resolution."
    )
    return Table("Feature norm against resolution", header, rows, note)


def discard_curves(found: NormQuality) -> Figure:
    """Draws the refused share of genuine pairs against the share of genuine pairs left out.

    A genuine pair has two images of one person. It is refused if its similarity is below the
    threshold. There is one curve per order in which pairs are left out, such as "lowest norm
    first". The refused share is computed over the remaining pairs.

    Args:
      found: the measured relation of feature norm and quality.
    """
    figure, (axes,) = panels()
    shares = np.linspace(0, MOST_LEFT_OUT, 101)
    for colour, (order, curve) in zip(cycle(COLOURS), found.curves.items(), strict=False):
        refused = [100 * curve.at(share) for share in shares]
        axes.plot(100 * shares, refused, color=colour, label=order)
    axes.set(
        xlabel="genuine pairs left out, %",
        ylabel=f"refused at FAR {100 * found.far:g} %, % of those kept",
    )
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _correlation(value: float) -> str:
    # There is no correlation if one of both numbers is constant.
    return "none" if math.isnan(value) else f"{value:+.2f}"
