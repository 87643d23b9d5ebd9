"""Trains normalised softmax with C-contrastive loss on the ORL faces: NormFace's best combination.

Source: NormFace, Table 2. The weights are 1 and 0.01, and each loss has its own agents, as in the
  released code.
Command: hyperface train orl-joint
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data (LFW 99.19 %, Table 2).
Measured: accuracy 86.83 %, TAR 63.11 % at FAR 1 % and 47.33 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import CContrastiveTerm, Loss
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-joint",
    # The softmax has weight 1 by default.
    loss=Loss(c_contrastive=CContrastiveTerm(weight=0.01)),
    compare=(),
)
