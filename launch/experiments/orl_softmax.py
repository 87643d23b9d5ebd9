"""Plain softmax on the ORL faces: the baseline of orl-normface, nothing normalised.

Source: NormFace, Eq. 1 without bias (Proposition 1).
"""

import dataclasses

from hyperface.train.experiment import Loss, SoftmaxTerm
from launch.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-softmax",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    compare=(),
)
