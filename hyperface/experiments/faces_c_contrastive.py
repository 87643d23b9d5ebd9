"""Fine-tunes a softmax baseline on real faces with C-contrastive loss.

Source: NormFace, Eq. 10 with m = 1, and 5.1.
Command: hyperface train faces-c-contrastive --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: README, Results.
"""

import dataclasses

from hyperface.config.loss import CContrastiveTerm, Loss, SoftmaxTerm
from hyperface.experiments import faces_normface

EXPERIMENT = dataclasses.replace(
    # With the agents' larger learning rate, since this loss normalises features too.
    faces_normface.EXPERIMENT,
    name="faces-c-contrastive",
    # A loss has the softmax by default; weight 0 leaves it out.
    loss=Loss(softmax=SoftmaxTerm(weight=0.0), c_contrastive=CContrastiveTerm(weight=1.0)),
)
