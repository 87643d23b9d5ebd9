"""Trains C-triplet loss on the ORL faces, with the nearest other class as negative.

Source: NormFace, Eq. 11, "C-triplet + center", m = 0.8, with the hardest class only, as in the
  released file. The gradient is exact. With gradient="caffe" agents need the release's learning
  rate, which is 100 times the network's; without it the accuracy is about 82 %.
Command: hyperface train orl-c-triplet
Data: the AT&T/ORL faces, as for orl-normface.
Time: 1 minute on two CPU cores.
Published: none on this data (LFW 99.13 %, Table 2).
Measured: accuracy 86.89 %, TAR 70.00 % at FAR 1 % and 60.44 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import CTripletTerm, Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-c-triplet",
    loss=Loss(
        # A loss has the softmax by default; weight 0 leaves it out.
        softmax=SoftmaxTerm(weight=0.0),
        c_triplet=CTripletTerm(weight=1.0, negatives="hardest", always_pull=True),
    ),
    compare=(),
)
