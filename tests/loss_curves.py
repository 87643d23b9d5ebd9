"""Loss curves of every class-wise loss on made-up data; as a program, one process of several."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from processes import join

from hyperface.config.loss import (
    AdaFaceTerm,
    BatchContrastiveTerm,
    BatchTripletTerm,
    CContrastiveTerm,
    CenterTerm,
    CTripletTerm,
    Loss,
    MagFaceTerm,
    MarginTerm,
    RingTerm,
    SoftmaxTerm,
    SphereFaceTerm,
)

if TYPE_CHECKING:  # Not before the processes have found each other.
    from hyperface.train.state import TrainState

CLASSES = 21  # No multiple of 2, 4 or 8: the last device always has rows of nobody.
BATCH = 16
OFF = SoftmaxTerm(weight=0.0)
SAMPLED = SoftmaxTerm(scale=5.0)
LOSSES = {
    "softmax, learned scale": Loss(),
    "softmax, dropout": Loss(softmax=SoftmaxTerm(scale=10.0, dropout=0.3)),
    "softmax, forced rows": Loss(softmax=SoftmaxTerm(scale=10.0, gradient="caffe")),
    "softmax, features normalised": Loss(softmax=SoftmaxTerm(scale=10.0, normalize="features")),
    "softmax, agents normalised": Loss(softmax=SoftmaxTerm(scale=1.0, normalize="agents")),
    "softmax, plain": Loss(softmax=SoftmaxTerm(scale=1.0, normalize="none", bias=True)),
    "c-contrastive": Loss(softmax=OFF, c_contrastive=CContrastiveTerm(1.0)),
    "c-contrastive, caffe": Loss(softmax=OFF, c_contrastive=CContrastiveTerm(1.0, 1.0, "caffe")),
    "c-triplet": Loss(softmax=OFF, c_triplet=CTripletTerm(1.0)),
    "c-triplet, hardest": Loss(softmax=OFF, c_triplet=CTripletTerm(1.0, negatives="hardest")),
    "c-triplet, pull always": Loss(softmax=OFF, c_triplet=CTripletTerm(1.0, always_pull=True)),
    "c-triplet, caffe": Loss(softmax=OFF, c_triplet=CTripletTerm(1.0, gradient="caffe")),
    "a-softmax": Loss(softmax=OFF, a_softmax=SphereFaceTerm(1.0)),
    "a-softmax, caffe": Loss(softmax=OFF, a_softmax=SphereFaceTerm(1.0, gradient="caffe")),
    "l-softmax": Loss(softmax=OFF, l_softmax=SphereFaceTerm(1.0, margin=2)),
    "additive angular margin": Loss(softmax=OFF, margin_softmax=MarginTerm(1.0, 16.0, 1.0, 0.3)),
    "additive cosine margin": Loss(softmax=OFF, margin_softmax=MarginTerm(1.0, 16.0, 1.0, 0, 0.2)),
    "additive angular margin, released": Loss(
        softmax=OFF, margin_softmax=MarginTerm(1.0, 16.0, angular_margin=0.3, gradient="released")
    ),
    "adaface": Loss(softmax=OFF, adaface=AdaFaceTerm(1.0, 16.0)),
    "magface": Loss(softmax=OFF, magface=MagFaceTerm(1.0, 16.0, lower_norm=1.0, upper_norm=9.0)),
    "center": Loss(center=CenterTerm(0.01)),
    "center, caffe": Loss(center=CenterTerm(0.01, rule="caffe")),
    "ring": Loss(ring=RingTerm(0.1)),
    "ring, released": Loss(ring=RingTerm(0.1, form="released-auto")),
    "joint, one matrix each": Loss(
        c_contrastive=CContrastiveTerm(0.3), c_triplet=CTripletTerm(0.3)
    ),
    "joint, one matrix": Loss(
        c_contrastive=CContrastiveTerm(0.3), c_triplet=CTripletTerm(0.3), share_agents=True
    ),
    "contrastive and triplet of the batch": Loss(
        contrastive=BatchContrastiveTerm(0.1), triplet=BatchTripletTerm(0.1, mining="hardest")
    ),
    "sampled": Loss(softmax=SAMPLED, sample_rate=0.4),
    "sampled, all classes": Loss(softmax=SAMPLED, sample_rate=0.999),
}
"""By name: each term over classes in its forms, and what may stand beside it."""
ONLY_WHOLE = ("sampled",)
"""Where agents are split each device draws its own classes: other ones, as they should be."""

Curve = list[float]


def batches(steps: int) -> list[dict[str, np.ndarray]]:
    """Random patterns; the mask leaves the first of eight devices without an example."""
    rng = np.random.default_rng(0)
    mask = np.ones(BATCH, np.float32)
    mask[[0, 1, 9]] = 0
    return [
        {
            "images": rng.standard_normal((BATCH, 4, 4, 1)).astype(np.float32),
            "labels": rng.integers(0, CLASSES, BATCH).astype(np.int32),
            "mask": mask,
        }
        for _ in range(steps)
    ]


def first_state(name: str) -> "TrainState":
    """Of a run with this loss; the net is one matrix."""
    from test_sharded_step import Linear

    from hyperface import models
    from hyperface.config.experiment import Experiment, Model, Optimizer, check
    from hyperface.train.state import create_state

    models.create = lambda name, feature_dim, **_: Linear(feature_dim)
    run = Experiment("curve", 100, model=Model(feature_dim=8), loss=LOSSES[name])
    run = check(replace(run, optimizer=Optimizer(learning_rate=0.05)))
    (batch,) = batches(1)
    return create_state(run, CLASSES, batch["images"], batch["labels"])


def curve(
    step: Callable, state: "TrainState", steps: int, first: int = 0, last: int = BATCH
) -> Curve:
    """The loss of each step; rows `first` to `last` of each batch are this process's."""
    found = []
    for batch in batches(steps):
        state, metrics = step(state, {name: x[first:last] for name, x in batch.items()})
        found.append(metrics["loss"])
    return [float(loss) for loss in found]


def curves(
    names: Sequence[str], steps: int, process: int = 0, processes: int = 1
) -> dict[str, dict[str, Curve]]:
    """Of all devices of all processes, by loss: agents on each device, and split over them."""
    from hyperface.train import parallel

    share, found = BATCH // processes, {}
    start, end = share * process, share * (process + 1)
    for name in names:
        found[name], first = {}, first_state(name)
        for layout in ("whole", "split")[: 1 if name in ONLY_WHOLE else 2]:
            split = layout == "split"
            state = parallel.on_mesh(lambda state: state, first, split_classes=split)
            step = parallel.mesh_step(split_classes=split)
            found[name][layout] = curve(step, state, steps, start, end)
    return found


def main() -> None:
    """Prints each loss' curves as a line of JSON."""
    process, processes, (steps, *names) = join()
    for name in names:
        print(json.dumps(curves([name], int(steps), process, processes)), flush=True)


if __name__ == "__main__":
    main()
