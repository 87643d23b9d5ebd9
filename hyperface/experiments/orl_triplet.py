"""Trains triplet loss on mined triplets of the ORL faces, the baseline of C-triplet loss.

Source: NormFace, Eq. 8 with m = 0.8, on all triplets of a batch that violate the margin.
Command: hyperface train orl-triplet
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data.
Measured: accuracy 90.02 %, TAR 61.78 % at FAR 1 % and 50.22 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import BatchTripletTerm, Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-triplet",
    # A loss has the softmax by default; weight 0 leaves it out.
    loss=Loss(
        softmax=SoftmaxTerm(weight=0.0), triplet=BatchTripletTerm(weight=1.0, mining="violating")
    ),
    compare=(),
)
