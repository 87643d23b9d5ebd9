"""Trains C-contrastive loss alone on the ORL faces: metric learning with agents in place of pairs.

Source: NormFace, Eq. 10 with m = 1. Network, sizes and solver are those of orl-normface.
Command: hyperface train orl-c-contrastive
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data (LFW 99.15 %, and 99.16 % for normalised softmax, Table 2).
Measured: accuracy 85.23 %, TAR 60.22 % at FAR 1 % and 39.78 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import CContrastiveTerm, Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-c-contrastive",
    # A loss has the softmax by default; weight 0 leaves it out.
    loss=Loss(softmax=SoftmaxTerm(weight=0.0), c_contrastive=CContrastiveTerm(weight=1.0)),
    compare=(),
)
