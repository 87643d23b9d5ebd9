"""Ring loss' items in the paper's order."""

from hyperface.reproduce.item import RUNS, Item
from hyperface.reproduce.statements import Scores, Statements

SM, CENTER, SF = "SM", "SM + CL", "SF"
L2 = {alpha: f"l2-Cons SM ({alpha})" for alpha in (10, 20, 30, 50)}
SM_RING = {weight: f"SM + R ({weight})" for weight in ("0.01", "0.001", "0.0001")}
SF_RING = {weight: f"SF + R ({weight})" for weight in ("0.03", "0.01", "0.001", "0.0001")}
OTHERS = ("Bodla et al. Final1", "Bodla et al. Final2", "Lin et al.")


def tables(scores: Scores) -> Statements:
    """Tests the statements of Tables 1 to 4, which say the same of different data sets."""
    above, over_lambda = scores.above, list(SM_RING.values())
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
    """Tests the statements of Experiment 6 on one size of images."""
    above, ring, l2 = scores.above, SM_RING["0.01"], L2[30]
    return {
        "SM + R (0.01) is above SM": above(ring, SM),
        "SM + R (0.01) is above l2-Cons SM (30)": above(ring, l2),
        "SM + R (0.01) is above SM + CL": above(ring, CENTER),
        "l2-Cons SM (30) is above SM, but for 64 times smaller": above(l2, SM),
        "16 times smaller, SM + CL is below SM": above(SM, CENTER),
        "64 times smaller, l2-Cons SM (30) is below SM": above(SM, l2),
    }


_BOTH = ("table", "figure")

ITEMS = (
    Item(
        "figure-1",
        "Figure 1",
        "Two-dimensional MNIST features with and without Ring loss",
        "digits_ringloss.ring_planes",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "figure-2",
        "Figure 2 (2.1)",
        "Angular classification margin against the norm ratio",
        "toys.angular_margin",
        gives=_BOTH,
    ),
    Item(
        "equations-1-2",
        "Equations 1 and 2 (2.1)",
        "The softmax loss depends on the feature's norm",
        "gradients.norm_in_softmax",
        gives=_BOTH,
    ),
    Item(
        "figure-3",
        "Figure 3 (2.2)",
        "A mesh of points under softmax and Ring loss",
        "toys.mesh",
        gives=_BOTH,
    ),
    Item(
        "figure-4",
        "Figure 4",
        "Features of the digit 8 under softmax: training against test",
        "digits_ringloss.digit_eight",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "figure-5",
        "Figure 5",
        "Norms and accuracy of each class with and without Ring loss",
        "digits_ringloss.class_norms",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "equations-4-6",
        "Equations 3 to 6 (2.1, 2.2)",
        "Ring loss, its gradients, and where it is convex",
        "gradients.ring",
    ),
    Item("table-1", "Table 1 (Exp. 1)", "LFW", RUNS, ("msceleb", "lfw"), statements=tables),
    Item(
        "table-3",
        "Table 3 (Exp. 2)",
        "IJB-A, 1:1 verification",
        RUNS,
        ("msceleb", "ijba"),
        statements=tables,
    ),
    Item("figure-7", "Figure 7a (Exp. 2)", "ROC curves on IJB-A", RUNS, ("msceleb", "ijba"), _BOTH),
    Item(
        "figure-7-cs3",
        "Figure 7b (Exp. 3)",
        "ROC curves on Janus CS3",
        RUNS,
        ("msceleb", "cs3"),
        _BOTH,
    ),
    Item(
        "table-4",
        "Table 4 (Exp. 3)",
        "Janus CS3, 1:1 verification",
        RUNS,
        ("msceleb", "cs3"),
        statements=tables,
    ),
    Item(
        "table-2",
        "Table 2 (Exp. 4 and 5)",
        "MegaFace rank-1, and CFP frontal against profile",
        RUNS,
        ("msceleb", "facescrub", "cfp"),
        statements=tables,
    ),
    Item(
        "figure-6",
        "Figure 6 (Exp. 5)",
        "ROC curves on CFP frontal against profile",
        RUNS,
        ("msceleb", "cfp"),
        _BOTH,
    ),
    Item(
        "figure-8",
        "Figure 8 (Exp. 6)",
        "Low resolution: Janus CS3 made 4 to 64 times smaller",
        RUNS,
        ("msceleb", "cs3"),
        _BOTH,
        statements=figure_8,
    ),
    Item(
        "from-scratch",
        "Table 1, Exp. 1",
        "The losses on a small data set, from random weights",
        RUNS,
        ("orl_faces",),
        statements=tables,
    ),
    Item(
        "robustness",
        "Exp. 2 to 4, conclusion",
        "How far lambda and alpha move what is measured",
        "robustness.ring",
        ("faces",),
        _BOTH,
        runs=("faces-softmax",),
        other_data=True,
    ),
)
