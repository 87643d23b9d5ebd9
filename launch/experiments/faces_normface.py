"""Normalised softmax fine-tuned from a softmax baseline on real faces.

Source: NormFace, Eq. 6 and 5.1: fine-tuning at a small learning rate, the mean of five snapshots.
Command: python -m launch.train faces-normface --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 79.05 ± 0.27 and 78.87 ± 0.20 % over five snapshots, seeds 0 and 1;
  TAR 27.53 and 27.34 % at FAR 1 %, 12.07 and 12.07 % at 0.1 %. Before: 80.25, 28.72 and 13.21 %.
"""

import dataclasses

from hyperface.objective import Loss
from launch.experiments import faces_softmax

BASELINE = faces_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASELINE,
    name="faces-normface",
    steps=600,
    checkpoint_every=200,
    loss=Loss(),
    # Fresh heads at a large rate would undo the backbone: they learn alone first.
    optimizer=dataclasses.replace(BASELINE.optimizer, freeze_backbone=200, boundaries=(200,)),
    evaluation=dataclasses.replace(BASELINE.evaluation, snapshots=5, snapshot_every=40),
)
