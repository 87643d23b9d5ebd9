"""Fine-tunes a softmax baseline with softmax again: the control of the other `faces` experiments.

Source: none. It has the same number of steps as the other fine-tuned losses, and also starts with
  new agents. Losses that normalise use a larger learning rate for their agents, whose gradient is
  smaller.
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
    # The agents are new. Their first gradients would spoil the trained backbone, so they are
    # trained alone at first.
    optimizer=dataclasses.replace(BASELINE.optimizer, freeze_backbone=150, boundaries=(150, 340)),
    evaluation=dataclasses.replace(BASELINE.evaluation, snapshots=3, snapshot_every=20),
)
