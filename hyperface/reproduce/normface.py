"""Tests what NormFace states about its tables, on the scores of trained runs.

`statements` explains how a test is written. The names of rows are those in `published.toml`.
"""

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
"""Rows of Table 2 whose loss normalises both features and agents."""


def table_2(scores: Scores) -> Statements:
    """Returns the comparisons that test the sentences about NormFace's Table 2 and in section 5.2.

    The paper's scores are accuracies on LFW's 6,000 pairs. Most networks were fine-tuned, as in the
    paper. Some were trained from random weights.

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
    above, scratch = scores.above, f"{FEATURES}, from random weights"
    return {
        "normalisation beats no normalisation": above(BOTH, PLAIN),
        "feature-only normalisation is worse than both": above(BOTH, FEATURES),
        # Compared with softmax that was trained on for as many steps: every fine-tuned run gains
        # from new agents and more steps, whatever its loss is.
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
        # A loss "works alone" if, without softmax loss beside it, it verifies better than that.
        "C-contrastive works alone": above(C_CONTRASTIVE, PLAIN),
        "center loss does not work alone": above(PLAIN, CENTER_ALONE),
        # "The best" has one part per other row, and each of them must hold.
        "normalised softmax + C-contrastive is the best": above(
            JOINT, [*(row for row in NORMALIZED if row != JOINT), CENTER]
        ),
        "normalised losses differ less than softmax with and without normalisation": (
            scores.varies_more([PLAIN, BOTH], NORMALIZED)
        ),
        # "Collapse" is tested on accuracy and feature norms: a high loss would not show it.
        "normalising the weights only makes the network collapse": scores.fails(WEIGHTS),
        "normalising the features without a scale makes the network collapse": scores.fails(
            f"{FEATURES}, without a scale"
        ),
    }


def figure_8(scores: Scores) -> Statements:
    """Returns the comparison that tests the sentence about NormFace's Figure 8.

    The figure shows the accuracy against the weight of C-contrastive loss and of center loss.

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
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
    """Returns the comparisons that test sentences about NormFace's Table 3.

    The table has scores on LFW by the protocol BLUFR, which compares all pairs of images.

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
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
    """Returns the comparisons that test sentences about NormFace's Table 4.

    The table has accuracies on LFW of the network of Wu et al., with and without normalisation.

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
    # Wu's own score is without mirror images, and not comparable with the normalised rows (5.2).
    mirror = "softmax + mirror, not normalised"
    return {
        "normalisation beats no normalisation": scores.above(BOTH, mirror),
        "LFW: every normalised loss adds 0.2 to 0.4 points to softmax": scores.above(
            [BOTH, C_CONTRASTIVE, JOINT], mirror, least=0.2, most=0.4
        ),
    }


def table_5(scores: Scores) -> Statements:
    """Returns the comparisons that test sentences about NormFace's Table 5 and Figure 9.

    Both are about pairs of videos of the data set YouTube Faces (YTF).

    Args:
      scores: the scores in one column of the table: name of the row -> seed -> score.

    Returns:
      Sentence of the paper -> its comparisons of scores. The sentence is true if all its
      comparisons are true.
    """
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
        # "About 0.6" means that the difference is 0.6 after rounding to one digit.
        "normalisation can add about 0.6 points": above(JOINT, CENTER, least=0.6, most=0.6),
        "the three normalised models, better on LFW, are better than softmax + center": above(
            [BOTH, C_TRIPLET, JOINT], CENTER
        ),
        better: above(JOINT, [BOTH, C_TRIPLET]),
        "softmax, better on LFW than C-triplet + center, is better": above(BOTH, C_TRIPLET),
    }
