"""Builds the tables and the reliability diagram of a calibration."""

from collections.abc import Mapping
from itertools import cycle

from matplotlib.figure import Figure

from hyperface.metrics.calibration import Calibration, Quality
from hyperface.metrics.operating_points import OperatingPoint
from hyperface.metrics.threshold import TOO_FEW
from hyperface.report.canvas import BASELINE, COLOURS, panels
from hyperface.report.tables import Table, percent


def threshold_table(title: str, found: Calibration) -> Table:
    """Returns the table of thresholds and their measured rates, one row per requested error rate.

    A row has two thresholds: a pair is called "same" (one person) if its similarity is at least the
    first, and otherwise "different" (two people) if it is at most the second. The requested error
    rate is the largest share of pairs of two people that may be called "same", and of pairs of one
    person that may be called "different". The thresholds are fitted on some people. The measured
    rates in the row are those on other people.

    Args:
      title: title of the protocol, which begins the title of the table.
      found: the calibration. The cell of a rate that was not measured is empty.
    """
    # Without resamples no point has limits, and the column would be empty.
    with_limits = any(point.measured_far_low is not None for point in found.points)
    rows = [
        (
            f"{100 * point.far:g} %{'' if point.supported else TOO_FEW}",
            f"{point.threshold:.4f}",
            f"{point.reject_threshold:.4f}",
            _shown(point.measured_far),
            *([_limits(point)] if with_limits else []),
            _shown(point.measured_tar),
            _shown(point.measured_frr),
        )
        for point in found.points
    ]
    header = (
        "rate asked for",
        "same from",
        "different up to",
        "FAR measured",
        *(["95 % over people"] if with_limits else []),
        "TAR measured",
        "called different",
    )
    note = (
        f"Thresholds are of {found.num_same:,} same and {found.num_different:,} different pairs of "
        "the calibration half, the measured rates of the test half. A pair with a cosine of at "
        'least "same from" is called the same; another one of at most "different up to" is called '
        "different; between them nothing is said. The last column is the share of same pairs that "
        "are called different."
    )
    if with_limits:
        note += (
            " 95 % of resamples of the test people have a FAR within the limits beside it; where "
            "no different pair was accepted, resamples cannot show any limits."
        )
    return Table(f"{title}: thresholds", header, rows, note)


def _shown(rate: float | None) -> str:
    return "" if rate is None else percent(rate)


def _limits(point: OperatingPoint) -> str:
    low, high = point.measured_far_low, point.measured_far_high
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def probability_table(title: str, found: Calibration) -> Table:
    """Returns the table of Cllr and ECE, one row per way to turn a cosine into a probability.

    The probability is that a pair shows one person. The ways are the uncalibrated (1 + cosine) / 2,
    the logistic calibration, and the isotonic calibration. Cllr is the cost of the log-likelihood
    ratio in bits per pair. ECE is the expected calibration error: the mean distance between the
    probability and the observed share of pairs of one person.

    Args:
      title: title of the protocol, which begins the title of the table.
      found: the calibration, whose field `quality` has the measured numbers. If this field is
        empty, the table has no rows.
    """
    rows = [
        (name, f"{quality.cllr:.3f}", percent(quality.reliability.error))
        for name, quality in found.quality.items()
    ]
    slope, offset = found.logistic
    note = (
        "Cllr: mean cost in bits per pair of the log-likelihood ratio; 0 is perfect and 1 is a "
        "guess. ECE: expected calibration error, the mean distance of stated probability and "
        "observed share. Both are of the test half, and same and different pairs weigh equally. "
        "The similarity is read as the probability (1 + cosine) / 2. logistic: log-likelihood "
        f"ratio = {slope:.3f} cosine {'+' if offset >= 0 else '-'} {abs(offset):.3f}, fitted with "
        "Platt's targets; isotonic: pool adjacent violators. Both are fitted on the calibration "
        "half."
    )
    return Table(f"{title}: probabilities", ("probability", "Cllr, bits", "ECE"), rows, note)


def reliability_diagram(quality: Mapping[str, Quality]) -> Figure:
    """Draws the observed share of pairs of one person against the stated probability of one person.

    The stated probability is the probability that the calibration computes for a pair. Pairs with
    similar probabilities are put into one bin. Each bin is a point, whose area grows with the share
    of pairs in the bin.

    Args:
      quality: way to turn a cosine into a probability, such as "logistic" -> its measured quality.
    """
    figure, (axes,) = panels()
    axes.plot([0, 1], [0, 1], label="perfect", **BASELINE)
    for colour, (name, found) in zip(cycle(COLOURS), quality.items(), strict=False):
        diagram = found.reliability
        # No line: it would lead the eye to bins of a few pairs, whose share says little.
        # At least 4 square points, so that a bin of few pairs is seen.
        sizes = (4 + 300 * diagram.weight).tolist()
        label = f"{name}: ECE {percent(diagram.error)}"
        axes.scatter(diagram.stated, diagram.observed, sizes, color=colour, alpha=0.7, label=label)
    # With a margin, so that points at 0 and at 1 are whole.
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title="Reliability")
    axes.set(xlabel="stated probability of one person", ylabel="observed share of same pairs")
    axes.legend(loc="upper left", markerscale=0.7)
    return figure
