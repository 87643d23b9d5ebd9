"""Trains A-Softmax (SphereFace) with Ring loss on the ORL faces ("SF + R" in Ring loss' tables).

Source: Ring loss, Table 1, lambda 0.01. A-Softmax has m = 4, and its blend is annealed to 5 as in
  the released code.
Command: hyperface train orl-sphereface
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data (LFW 99.43 %, Table 1).
Measured: accuracy 88.19 %, TAR 60.22 % at FAR 1 % and 43.56 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm, SphereFaceTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-sphereface",
    loss=Loss(
        # A loss has the softmax by default; weight 0 leaves it out.
        softmax=SoftmaxTerm(weight=0.0),
        # m and the floor of the blend are the defaults of the term.
        a_softmax=SphereFaceTerm(weight=1.0),
        ring=RingTerm(weight=0.01),
    ),
    compare=(),
)
