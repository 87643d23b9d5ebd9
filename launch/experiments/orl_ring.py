"""Plain softmax with Ring loss on the ORL faces: norms are drawn to a learned radius.

Source: Ring loss, Eq. 4, on top of softmax ("SM + R").
"""

import dataclasses

from hyperface.train.experiment import Loss, RingTerm, SoftmaxTerm
from launch.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-ring",
    loss=Loss(
        softmax=SoftmaxTerm(normalize="none", scale=1.0),
        ring=RingTerm(weight=0.01),
    ),
    compare=("orl-softmax",),
)
