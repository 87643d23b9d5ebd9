"""Normalised softmax fine-tuned from a softmax baseline on real faces.

Source: NormFace, Eq. 6 and 5.1: fine-tuning at a small learning rate, the mean of five snapshots.
Command: python -m launch.train faces-normface --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 77.70 ± 0.22 % over the five snapshots (TAR 23.12 % at FAR 1 %, 9.77 % at
  0.1 %), 78.80 % before. With `--optimizer.freeze-backbone 0 --optimizer.boundaries 300`: 78.63 %.
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
