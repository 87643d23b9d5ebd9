"""Softmax alone fine-tuned from a softmax baseline: what normalisation and Ring loss have to beat.

Source: the control of the tables at small scale: as many steps and as fresh agents as the
  fine-tuned losses beside it. Agents of losses that normalise learn at larger rates: their gradient
  is smaller.
Command: hyperface train faces-softmax-continued --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: README, Results.
"""

import dataclasses

from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import faces_softmax

BASELINE = faces_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASELINE,
    name="faces-softmax-continued",
    steps=400,
    checkpoint_every=100,
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    # Fresh agents at a large rate would undo the backbone: they learn alone first.
    optimizer=dataclasses.replace(BASELINE.optimizer, freeze_backbone=150, boundaries=(150, 340)),
    evaluation=dataclasses.replace(BASELINE.evaluation, snapshots=3, snapshot_every=20),
)
