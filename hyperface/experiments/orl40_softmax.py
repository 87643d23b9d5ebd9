"""Trains plain softmax on ORL in four groups: the baseline of orl40-normface and orl40-ring.

Source: NormFace, Eq. 1, without normalisation. All other settings are those of orl40-normface.
Command: hyperface train orl40-softmax
Data: the AT&T/ORL faces, as for orl40-normface.
Time: 1 minute on two CPU cores.
Published: none on this data.
Measured: accuracy 91.01 %, EER 9.07 %; with seeds 1 and 2 90.41 and 90.97 %, EER 9.75 and 10.31 %.
"""

import dataclasses

from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import orl40_normface

EXPERIMENT = dataclasses.replace(
    orl40_normface.EXPERIMENT,
    name="orl40-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
