"""Fine-tunes a released MobileFaceNet with NormFace's normalised softmax.

Source: NormFace, Eq. 6 and 5.1.
Command: hyperface train mobilefacenet-normface --init-from net.onnx
Data: as for mobilefacenet-softmax.
Time: 4 minutes on two CPU cores.
Published: none on this data.
Measured: docs/how-to/released_weights.md.
"""

import dataclasses

from hyperface.config.loss import Loss
from hyperface.experiments import mobilefacenet_softmax

EXPERIMENT = dataclasses.replace(
    mobilefacenet_softmax.EXPERIMENT, name="mobilefacenet-normface", loss=Loss()
)
