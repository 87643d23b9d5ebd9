"""Fine-tunes a softmax baseline on real faces with softmax and Ring loss.

Source: Ring loss, Eq. 4 with lambda 0.01, added to plain softmax.
Command: hyperface train faces-ring --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: README, Results.
"""

import dataclasses

from hyperface.config.loss import RingTerm
from hyperface.experiments import faces_softmax_continued

CONTINUED = faces_softmax_continued.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    CONTINUED,
    name="faces-ring",
    loss=dataclasses.replace(CONTINUED.loss, ring=RingTerm(weight=0.01)),
)
