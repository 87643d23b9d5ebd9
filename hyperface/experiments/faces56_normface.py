"""Trains NormFace's softmax from random weights on 2,733 people, at half the papers' resolution.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned, starting where
  Proposition 2's bound is 0.1. The rate is that of faces56-softmax (0.05: see there; 0.15: 71.19 %;
  0.4: 70.90 %).
Command: hyperface train faces56-normface
Data: as for faces56-softmax.
Time: 9 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

import dataclasses

from hyperface.config.loss import Loss
from hyperface.experiments import faces56_softmax

# The default loss is NormFace's softmax with a learned scale.
EXPERIMENT = dataclasses.replace(faces56_softmax.EXPERIMENT, name="faces56-normface", loss=Loss())
