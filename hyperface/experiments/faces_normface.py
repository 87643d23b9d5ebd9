"""Normalised softmax fine-tuned from a softmax baseline on real faces.

Source: NormFace, Eq. 6 and 5.1: a small learning rate, the mean of several snapshots.
Command: hyperface train faces-normface --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: README, Results.
"""

import dataclasses

from hyperface.config.experiment import Group
from hyperface.config.loss import Loss
from hyperface.experiments import faces_softmax_continued

CONTINUED = faces_softmax_continued.EXPERIMENT
GROUPS = CONTINUED.optimizer.groups

EXPERIMENT = dataclasses.replace(
    CONTINUED,
    name="faces-normface",
    loss=Loss(),
    # The gradient of the agents is as long as the feature, here 1 in place of some 60.
    optimizer=dataclasses.replace(
        CONTINUED.optimizer, groups=dataclasses.replace(GROUPS, agents=Group(rate=20.0))
    ),
)
