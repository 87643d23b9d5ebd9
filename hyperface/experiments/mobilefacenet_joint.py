"""Fine-tunes a released MobileFaceNet with normalised softmax and C-contrastive loss.

Source: NormFace, Eq. 6 and 10 with m = 1, and 5.1: the weight of C-contrastive is 0.01.
Command: hyperface train mobilefacenet-joint --init-from net.onnx
Data: as for mobilefacenet-softmax.
Time: 3 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

import dataclasses

from hyperface.config.loss import CContrastiveTerm, Loss
from hyperface.experiments import mobilefacenet_normface

EXPERIMENT = dataclasses.replace(
    mobilefacenet_normface.EXPERIMENT,
    name="mobilefacenet-joint",
    loss=Loss(c_contrastive=CContrastiveTerm(weight=0.01)),
)
