"""Defines the rules that turn the features of a pair into "same" or "different", as plain data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hyperface.metrics.svm import THRESHOLD_STEPS

SIMILARITY_STEPS = {
    "cosine": "the cosine",
    "euclidean": "the negative Euclidean distance",
    "squared": "the negative squared Euclidean distance",
}
"""Name of a similarity -> the words for it in the text that describes the computation."""


@dataclass(frozen=True)
class PairRules:
    """The rules by which a pair of images is called "same" or "different".

    Each pair is in one fold (group of pairs). For the pairs of a fold, mean, PCA and threshold are
    fitted on the pairs of the other folds.

    Raises:
      ValueError: the similarity or the threshold rule is unknown, or the threshold is "grid" and
        the similarity is not "squared".
    """

    subtract_mean: bool = False
    """Whether the mean feature of the other folds' images is subtracted from each feature. With PCA
    it is subtracted in any case."""
    pca: float | int | None = None
    """PCA that is fitted on the other folds' images, without whitening. A float in (0, 1) is the
    share of variance to keep, and an int is the number of dimensions to keep. With None there is no
    PCA."""
    similarity: Literal["cosine", "euclidean", "squared"] = "cosine"
    """Similarity of two features at unit length: the cosine, the negative Euclidean distance, or
    the negative squared distance. The squared distance is 2 - 2 cos, so it has the cosine's
    accuracies unless a grid is used."""
    threshold: Literal["accuracy", "accuracy-mean", "svm", "grid"] = "accuracy"
    """Name of the rule that fits the threshold on the other folds:

    - "accuracy": the threshold of highest accuracy, or the median of equally good ones;
    - "accuracy-mean": the mean of equally good ones, as SphereFace's code does;
    - "svm": the score at which the decision of a linear SVM changes its sign;
    - "grid": the best of the squared distances 0, 0.01, ..., 3.99, as in insightface's code.
    """

    def __post_init__(self) -> None:
        for name, known in (("similarity", SIMILARITY_STEPS), ("threshold", THRESHOLD_STEPS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(known)}, found {getattr(self, name)}"
                )
        # The grid has fixed distances from 0 to 3.99; other similarities have another range.
        if self.threshold == "grid" and self.similarity != "squared":
            raise ValueError(
                f"expected squared distances with threshold grid, found {self.similarity}"
            )

    def steps(self, fits: Sequence[int], dims: Sequence[int], dim: int) -> tuple[str, ...]:
        """Describes what was computed by these rules, in one sentence per step.

        Args:
          fits: for each tested fold, number of images that mean and PCA were fitted on. An
            image of several pairs counts once per pair.
          dims: for each tested fold, number of dimensions that PCA kept; not used without PCA.
          dim: number of dimensions of the features before PCA.
        """
        of = f"the {span(fits)} images of the other folds' pairs (duplicates kept)"
        fitted = ["no mean subtracted, no PCA"]
        if self.pca is not None:
            asked = f"{100 * self.pca:g} % of the variance" if self.pca < 1 else "a fixed number"
            fitted = [
                f"mean of {of} subtracted",
                f"PCA fitted on the same images, keeping {asked}: {span(dims)} of {dim} "
                "dimensions, no whitening",
            ]
        elif self.subtract_mean:
            fitted = [f"mean of {of} subtracted", "no PCA"]
        return (
            *fitted,
            f"features scaled to unit length, similarity is {SIMILARITY_STEPS[self.similarity]}",
            THRESHOLD_STEPS[self.threshold],
            ACCURACY_STEP,
        )


ACCURACY_STEP = (
    "a fold's same and different pairs weigh equally; standard error is the standard deviation "
    "over folds (ddof 1) / sqrt(folds)"
)
"""Sentence, in the text that describes the computation, on how accuracies are averaged."""

PRESETS = {
    "plain": PairRules(),
    "normface": PairRules(pca=0.995),
    "normface-released": PairRules(pca=0.995, similarity="euclidean", threshold="svm"),
    "sphereface-released": PairRules(subtract_mean=True, threshold="accuracy-mean"),
    "insightface": PairRules(similarity="squared", threshold="grid"),
}
"""Rules by name:

- plain fits nothing but the threshold;
- normface is NormFace, section 5.1, with the share of variance of the code that its authors
  published;
- normface-released is the code that the NormFace authors published;
- sphereface-released is the code that the SphereFace authors published. That code uses the mean of
  the best of 20,001 thresholds in [-1, 1]; this library tries every midpoint between two scores;
- insightface is the verification code of the insightface project: squared distances and a grid of
  400 thresholds.
"""


def span(numbers: Sequence[int]) -> str:
    """Returns the range of some numbers as text: '77', or '77 to 80' if the numbers differ."""
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"
