"""Tests what Ring loss states about its tables, on the scores of trained runs.

`statements` explains how a test is written. The names of rows are those in `published.toml`:

- SM: softmax
- SF: SphereFace
- CL: center loss
- R: Ring loss, with its lambda in brackets
- l2-Cons SM: l2-constrained softmax, with its alpha in brackets
"""

from hyperface.reproduce.statements import Scores, Statements

SM, CENTER, SF = "SM", "SM + CL", "SF"
L2 = {alpha: f"l2-Cons SM ({alpha})" for alpha in (10, 20, 30, 50)}
SM_RING = {weight: f"SM + R ({weight})" for weight in ("0.01", "0.001", "0.0001")}
SF_RING = {weight: f"SF + R ({weight})" for weight in ("0.03", "0.01", "0.001", "0.0001")}
OTHERS = ("Bodla et al. Final1", "Bodla et al. Final2", "Lin et al.")


def tables(scores: Scores) -> Statements:
    """Returns the comparisons that test the paper's sentences about Tables 1 to 4 (Ring loss).

    The sentences are the same for the data sets of the four tables.

    Args:
      scores: the scores in one column of a table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
    above, over_lambda = scores.above, list(SM_RING.values())
    # Without alpha = 50, at which training exploded in the paper: its tables have no such scores.
    over_alpha = [L2[alpha] for alpha in (30, 20, 10)]
    best = SF_RING["0.01"]
    ours = [SM, *over_alpha, CENTER, SF, "SF + CL", *over_lambda, *SF_RING.values()]
    return {
        **{
            f"softmax + Ring loss ({weight}) beats softmax": above(row, SM)
            for weight, row in SM_RING.items()
        },
        **{
            f"SphereFace + Ring loss ({weight}) beats SphereFace": above(row, SF)
            for weight, row in SF_RING.items()
        },
        "softmax + Ring loss beats softmax, at every lambda": above(over_lambda, SM),
        # Without lambda = 0.03, of which the paper says that it drops off.
        "SphereFace + Ring loss beats SphereFace, at lambda 0.0001 to 0.01": above(
            [SF_RING[weight] for weight in ("0.01", "0.001", "0.0001")], SF
        ),
        "SphereFace + Ring loss drops off at lambda 0.03: below 0.01": above(best, SF_RING["0.03"]),
        "softmax + Ring loss (0.001) beats softmax + center": above(SM_RING["0.001"], CENTER),
        "SphereFace + Ring loss (0.001) beats SphereFace + center": above(
            SF_RING["0.001"], "SF + CL"
        ),
        "SphereFace + Ring loss (0.001) beats SphereFace of its own paper": above(
            SF_RING["0.001"], "other work, SphereFace, a single patch"
        ),
        "softmax + Ring loss (0.01) beats l2-constrained softmax, at every alpha": above(
            SM_RING["0.01"], over_alpha
        ),
        "softmax + Ring loss (0.001) beats softmax + center and l2-constrained softmax (30)": above(
            SM_RING["0.001"], [CENTER, L2[30]]
        ),
        "SphereFace beats softmax + Ring loss": above(SF, over_lambda),
        "l2-constrained softmax (10) is worse than softmax": above(SM, L2[10]),
        "softmax + Ring loss (0.001) beats Lin et al.": above(
            SM_RING["0.001"], "other work, Lin et al."
        ),
        "SphereFace beats the best before": above(SF, [f"other work, {name}" for name in OTHERS]),
        "SphereFace + Ring loss (0.01) is the best": above(
            best, [row for row in ours if row != best]
        ),
        "varies less over lambda = 0.01, 0.001, 0.0001 than over alpha = 30, 20, 10": (
            scores.varies_more(over_alpha, over_lambda)
        ),
        "alpha = 50 explodes": scores.fails(L2[50]),
        "alpha learned from 30 does not converge": scores.fails(
            "l2-Cons SM (alpha learned, from 30)"
        ),
    }


def figure_8(scores: Scores) -> Statements:
    """Returns the comparisons that test sentences about Ring loss, Experiment 6 and Figure 8.

    The experiment is about test images of low resolution. The table has one column per factor by
    which the area of the test images was reduced, and one row per loss.

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
    above, ring, l2 = scores.above, SM_RING["0.01"], L2[30]
    # Some statements are about one factor. All are computed for each column; the entry `primary` in
    # `published.toml` names the columns by which a statement is judged.
    return {
        "SM + R (0.01) is above SM": above(ring, SM),
        "SM + R (0.01) is above l2-Cons SM (30)": above(ring, l2),
        "SM + R (0.01) is above SM + CL": above(ring, CENTER),
        "l2-Cons SM (30) is above SM, but for 64 times smaller": above(l2, SM),
        "16 times smaller, SM + CL is below SM": above(SM, CENTER),
        "64 times smaller, l2-Cons SM (30) is below SM": above(SM, l2),
    }
