"""NormFace's items in the paper's order."""

from hyperface.reproduce.item import RUNS, Item
from hyperface.reproduce.statements import Scores, Statements

PLAIN, CENTER, BOTH = (
    "softmax, not normalised",
    "softmax + center, not normalised",
    "softmax, normalised",
)
FEATURES, WEIGHTS = "softmax, feature only", "softmax, weight only"
C_CONTRASTIVE, JOINT = "C-contrastive, normalised", "softmax + C-contrastive, normalised"
C_TRIPLET, CENTER_ALONE = "C-triplet + center, normalised", "center alone, normalised"
NORMALIZED = (
    *(BOTH, "softmax + center, normalised", C_CONTRASTIVE),
    *("C-triplet, normalised", C_TRIPLET, JOINT),
)
"""Rows of Table 2 with both sides normalised."""


def table_2(scores: Scores) -> Statements:
    """Tests the statements of Table 2 and 5.2, fine-tuned or from random weights."""
    above, scratch = scores.above, f"{FEATURES}, from random weights"
    return {
        "normalisation beats no normalisation": above(BOTH, PLAIN),
        "feature-only normalisation is worse than both": above(BOTH, FEATURES),
        "feature-only normalisation is worse than what it is fine-tuned from": above(
            "what fine-tuning started from, trained on as long", FEATURES
        ),
        "feature-only normalisation from random weights is better than softmax": above(
            scratch, PLAIN
        ),
        "feature-only normalisation from random weights is worse than softmax + center": above(
            CENTER, scratch
        ),
        "feature-only normalisation is better than softmax": above(FEATURES, PLAIN),
        "weight-only normalisation is better than feature-only": above(WEIGHTS, FEATURES),
        "LFW: every normalised loss adds 0.2 to 0.4 points to softmax + center": above(
            NORMALIZED, CENTER, least=0.2, most=0.4
        ),
        "normalised softmax + C-contrastive beats softmax + center": above(JOINT, CENTER),
        "C-contrastive works alone": above(C_CONTRASTIVE, PLAIN),
        "center loss does not work alone": above(PLAIN, CENTER_ALONE),
        "normalised softmax + C-contrastive is the best": above(
            JOINT, [*(row for row in NORMALIZED if row != JOINT), CENTER]
        ),
        "normalised losses differ less than softmax with and without normalisation": (
            scores.varies_more([PLAIN, BOTH], NORMALIZED)
        ),
        "normalising the weights only makes the network collapse": scores.fails(WEIGHTS),
        "normalising the features without a scale makes the network collapse": scores.fails(
            f"{FEATURES}, without a scale"
        ),
    }


def figure_8(scores: Scores) -> Statements:
    """Tests the statement of Figure 8."""
    weights = ("0.001", "0.01", "0.1", "1")
    center, c_contrastive = (
        [f"softmax + {weight} {name}" for weight in weights] for name in ("center", "C-contrastive")
    )
    return {
        "accuracy varies less over C-contrastive's weight than over center's": (
            scores.varies_more(center, c_contrastive)
        )
    }


def table_3(scores: Scores) -> Statements:
    """Tests the statements of Table 3."""
    center, both = f"ResNet, {CENTER}", f"ResNet, {BOTH}"
    maxout = [f"MaxOut, {BOTH}", f"MaxOut, {C_CONTRASTIVE}"]
    return {
        "normalised softmax beats softmax + center": scores.above(both, center),
        "normalised C-triplet + center beats softmax + center": scores.above(
            f"ResNet, {C_TRIPLET}", center
        ),
        "normalised softmax + C-contrastive beats softmax + center": scores.above(
            f"ResNet, {JOINT}", center
        ),
        "MaxOut: normalised softmax and C-contrastive beat softmax": scores.above(
            maxout, f"MaxOut, {PLAIN}"
        ),
        "normalised softmax beats softmax": scores.above(both, f"ResNet, {PLAIN}"),
    }


def table_4(scores: Scores) -> Statements:
    """Tests the statements of Table 4."""
    mirror = "softmax + mirror, not normalised"
    return {
        "normalisation beats no normalisation": scores.above(BOTH, mirror),
        "LFW: every normalised loss adds 0.2 to 0.4 points to softmax": scores.above(
            [BOTH, C_CONTRASTIVE, JOINT], mirror, least=0.2, most=0.4
        ),
    }


def table_5(scores: Scores) -> Statements:
    """Tests the statements of Table 5 and Figure 9."""
    above = scores.above
    histograms = {
        "softmax, normalised": BOTH,
        "C-triplet + center": C_TRIPLET,
        "softmax + C-contrastive": JOINT,
        "softmax, not normalised": PLAIN,
    }
    better = "softmax + C-contrastive, better on LFW than softmax and C-triplet + center, is better"
    return {
        f"HIK-SVM is above the mean: {name}": above(f"{row}, HIK-SVM", row)
        for name, row in histograms.items()
    } | {
        "normalised softmax beats softmax": above(BOTH, PLAIN),
        "normalised softmax beats softmax + center": above(BOTH, CENTER),
        "normalisation can add about 0.6 points": above(JOINT, CENTER, least=0.6, most=0.6),
        "the three normalised models, better on LFW, are better than softmax + center": above(
            [BOTH, C_TRIPLET, JOINT], CENTER
        ),
        better: above(JOINT, [BOTH, C_TRIPLET]),
        "softmax, better on LFW than C-triplet + center, is better": above(BOTH, C_TRIPLET),
    }


_BOTH = ("table", "figure")
_FACES = ("casia", "lfw")

ITEMS = (
    Item(
        "table-1",
        "Table 1",
        "Features compared before and after normalisation",
        "digits_planes.similarities",
        ("mnist",),
        other_data=True,
    ),
    Item(
        "table-1-faces",
        "Table 1, smaller",
        "Faces compared before and after normalisation",
        "faces.normalization",
        ("faces",),
        runs=("faces-softmax-continued",),
        uses=("lfw",),
        other_data=True,
    ),
    Item(
        "figure-1",
        "Figure 1",
        "Pipeline of training and testing",
        "pipeline.drawing",
        gives=("figure",),
    ),
    Item(
        "figure-2",
        "Figure 2",
        "Two-dimensional MNIST features under softmax without bias",
        "digits_planes.softmax_plane",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "equations-1-6",
        "Equations 1, 2, 5 and 6 (3.1, 3.3)",
        "Softmax of inner products, and of scaled cosines",
        "gradients.softmax_formulas",
    ),
    Item(
        "proposition-1",
        "Proposition 1 (3.1, 8.1)",
        "A longer feature is a more certain one",
        "propositions.scaling",
        gives=_BOTH,
    ),
    Item(
        "figure-3",
        "Figure 3",
        "Two-dimensional MNIST features under softmax with a bias",
        "digits_planes.bias_plane",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "figure-4",
        "Equations 3 and 4, Figure 4 (3.2, 8.4, 8.5)",
        "The gradient of normalisation lies in the tangent plane",
        "gradients.normalization",
        gives=_BOTH,
    ),
    Item(
        "convergence",
        "Equations 5 and 6 (3.3)",
        "The convergence failure of the cosine softmax, and the scale",
        "digits_normface.convergence",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "proposition-2",
        "Proposition 2 (3.3, 8.2)",
        "Lower bound of the softmax loss after normalisation",
        "propositions.bound",
        gives=_BOTH,
    ),
    Item(
        "figure-5",
        "Figure 5",
        "The bound as a function of the squared norm",
        "propositions.bound_curves",
        gives=_BOTH,
    ),
    Item(
        "scales",
        "Released code of 3.3, mnist/gallery",
        "Three-dimensional MNIST features at five scales",
        "digits_normface.scales",
        ("mnist",),
        other_data=True,
    ),
    Item(
        "equations-9-11",
        "Equations 7 to 11 (4)",
        "Losses of pairs and triplets, softmax as distances, C-contrastive and C-triplet loss",
        "gradients.reformulations",
    ),
    Item(
        "figure-6",
        "Figure 6",
        "Agents under C-contrastive loss with m = 0 and m = 1",
        "toys.agents",
        gives=_BOTH,
    ),
    Item("figure-7", "Figure 7", "Marginal features that agents miss", "toys.margins", gives=_BOTH),
    Item(
        "proposition-3",
        "Proposition 3 (4, 8.3)",
        "Distortion by an agent, and its bound",
        "propositions.distortion",
        gives=_BOTH,
    ),
    Item(
        "proposition-3-training",
        "Proposition 3 (4)",
        "The bound on the distortion in training",
        "digits_normface.distortion",
        ("mnist",),
        _BOTH,
        other_data=True,
    ),
    Item(
        "proposition-3-faces",
        "Proposition 3 (4), smaller",
        "The bound on the distortion in training on faces",
        "faces.distortion",
        ("faces",),
        _BOTH,
        runs=("faces-c-contrastive", "faces-normface"),
        other_data=True,
    ),
    Item(
        "mirror",
        "1 and 5.1",
        "Features of an image and of its mirror image merged",
        "faces.mirror",
        ("faces",),
        runs=("faces-softmax-continued",),
        other_data=True,
    ),
    Item(
        "untrained",
        "5, protocols",
        "What untrained features verify",
        "untrained.features",
        ("faces",),
        runs=("faces-softmax",),
        uses=("lfw", "cfp"),
        other_data=True,
    ),
    Item("table-2", "Table 2", "LFW, 6,000 pairs, Wen's model", RUNS, _FACES, statements=table_2),
    Item(
        "figure-8",
        "Figure 8",
        "LFW accuracy against the weight of C-contrastive and center loss",
        RUNS,
        _FACES,
        _BOTH,
        statements=figure_8,
    ),
    Item(
        "figure-8-fixed-features",
        "Figure 8 (5.2), smaller",
        "Accuracy against the weight of C-contrastive and center loss, heads over fixed features",
        "robustness.weights",
        ("faces",),
        _BOTH,
        runs=("faces-softmax",),
        other_data=True,
    ),
    Item(
        "from-scratch",
        "Table 2, 5.2",
        "The losses on a small data set, from random weights",
        RUNS,
        ("orl_faces",),
        statements=table_2,
    ),
    Item(
        "table-3",
        "Table 3",
        "LFW, BLUFR protocol",
        RUNS,
        ("casia", "casia144", "lfw"),
        statements=table_3,
    ),
    Item(
        "table-4",
        "Table 4",
        "LFW, 6,000 pairs, Wu's model",
        RUNS,
        ("casia144", "lfw"),
        statements=table_4,
    ),
    Item(
        "figure-9",
        "Figure 9",
        "Histograms of similarities between the frames of two videos",
        RUNS,
        ("casia", "ytf"),
        _BOTH,
        statements=table_5,
    ),
    Item("table-5", "Table 5", "YTF, Wen's model", RUNS, ("casia", "ytf"), statements=table_5),
)
