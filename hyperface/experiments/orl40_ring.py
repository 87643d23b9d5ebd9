"""Trains softmax with Ring loss on ORL in four groups, so that all forty people can be scored.

Source: Ring loss, Eq. 4, added to softmax ("SM + R"), with lambda 0.01 as in its Table 1.
Command: hyperface train orl40-ring
Data: the AT&T/ORL faces, as for orl40-normface.
Time: 2 minutes on two CPU cores, including orl40-softmax for comparison.
Published: none on this data.
Measured: accuracy 91.92 %, EER 7.82 %; 0.91 points [-0.60, 2.67] above orl40-softmax. With seeds 1
  and 2: 91.38 and 90.22 %, EER 8.47 and 9.48 %.
"""

import dataclasses

from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm
from hyperface.experiments import orl40_normface

EXPERIMENT = dataclasses.replace(
    orl40_normface.EXPERIMENT,
    name="orl40-ring",
    loss=Loss(
        softmax=SoftmaxTerm(normalize="none", scale=1.0),
        ring=RingTerm(weight=0.01),
    ),
    compare=("orl40-softmax",),
)
