"""Ring loss' items in the paper's order."""

from launch.papers.item import RUNS, Item

_BOTH = ("table", "figure")

ITEMS = (
    Item(
        "figure-1",
        "Figure 1",
        "Two-dimensional MNIST features with and without Ring loss",
        "digits.ring_planes",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "figure-2",
        "Figure 2b (2.1)",
        "Angular classification margin against the norm ratio",
        "toys.angular_margin",
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
        "equations-1-2",
        "Equations 1 and 2 (2.1)",
        "The softmax loss depends on the feature's norm",
        "gradients.norm_in_softmax",
        gives=_BOTH,
    ),
    Item(
        "figure-4",
        "Figure 4",
        "Features of the digit 8 under softmax: training against test",
        "digits.digit_eight",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "figure-5",
        "Figure 5",
        "Norms and accuracy of each class with and without Ring loss",
        "digits.class_norms",
        ("mnist",),
        _BOTH,
    ),
    Item(
        "equations-4-6",
        "Equations 3 to 6 (2.2)",
        "Ring loss and its gradients",
        "gradients.ring",
    ),
    Item("table-1", "Table 1 (Exp. 1)", "LFW", RUNS, ("msceleb", "lfw")),
    Item("table-3", "Table 3 (Exp. 2)", "IJB-A, 1:1 verification", RUNS, ("msceleb", "ijba")),
    Item(
        "figure-7",
        "Figure 7 (Exp. 2 and 3)",
        "ROC curves on IJB-A and Janus CS3",
        RUNS,
        ("msceleb", "ijba"),
        _BOTH,
    ),
    Item(
        "table-4",
        "Table 4 (Exp. 3)",
        "Janus CS3, 1:1 verification",
        RUNS,
        ("msceleb", "cs3"),
    ),
    Item(
        "figure-8",
        "Figure 8 (Exp. 6)",
        "Low resolution: Janus CS3 made 4 to 64 times smaller",
        RUNS,
        ("msceleb", "cs3"),
        _BOTH,
    ),
    Item(
        "table-2",
        "Table 2 (Exp. 4 and 5)",
        "MegaFace rank-1, and CFP frontal against profile",
        RUNS,
        ("msceleb", "facescrub", "cfp"),
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
        "robustness",
        "Exp. 2, 4 and 5, conclusion",
        "How far lambda and alpha move what is measured",
        "robustness.ring",
        ("faces",),
        _BOTH,
        runs=("faces-softmax",),
    ),
)
