"""Fine-tunes a softmax baseline on real faces with NormFace's normalised softmax.

Source: NormFace, Eq. 6 and 5.1: a small learning rate, and the mean of several snapshots.
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
    # The gradient of the agents is proportional to the feature's norm. That is 1 here, and about 60
    # in the softmax baseline, so the agents need a larger learning rate.
    optimizer=dataclasses.replace(
        CONTINUED.optimizer, groups=dataclasses.replace(GROUPS, agents=Group(rate=20.0))
    ),
)
