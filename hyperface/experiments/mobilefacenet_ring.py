"""Fine-tunes a released MobileFaceNet with softmax and Ring loss.

Source: Ring loss, Eq. 1 with lambda = 0.01.
Command: hyperface train mobilefacenet-ring --init-from net.onnx
Data: as for mobilefacenet-softmax.
Time: 3 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

import dataclasses

from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm
from hyperface.experiments import mobilefacenet_softmax

EXPERIMENT = dataclasses.replace(
    mobilefacenet_softmax.EXPERIMENT,
    name="mobilefacenet-ring",
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0), ring=RingTerm(weight=0.01)),
)
