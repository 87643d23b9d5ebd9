"""Trains softmax with Ring loss from random weights on 2,733 people, at half the resolution.

Source: Ring loss, Eq. 4, lambda 0.01, on plain softmax.
Command: hyperface train faces56-ring
Data: as for faces56-softmax.
Time: 9 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of Ring loss in the documentation.
"""

import dataclasses

from hyperface.config.loss import RingTerm
from hyperface.experiments import faces56_softmax

BASE = faces56_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASE, name="faces56-ring", loss=dataclasses.replace(BASE.loss, ring=RingTerm(weight=0.01))
)
