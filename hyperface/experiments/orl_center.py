"""Trains softmax with center loss on the ORL faces, a baseline in both papers' tables.

Source: NormFace, Table 2, and Ring loss, Table 1 ("softmax + center loss"), with weight 0.008 and
  the center loss paper's alpha 0.5.
Command: hyperface train orl-center
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data (LFW 99.03 %, NormFace, Table 2).
Measured: accuracy 85.54 %, TAR 65.33 % at FAR 1 % and 59.56 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import CenterTerm, Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-center",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0), center=CenterTerm(weight=0.008)),
    compare=(),
)
