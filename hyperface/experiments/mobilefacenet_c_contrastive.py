"""Fine-tunes a released MobileFaceNet with C-contrastive loss alone.

Source: NormFace, Eq. 10 with m = 1, and 5.1.
Command: hyperface train mobilefacenet-c-contrastive --init-from net.onnx
Data: as for mobilefacenet-softmax.
Time: 3 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

import dataclasses

from hyperface.config.loss import CContrastiveTerm, Loss, SoftmaxTerm
from hyperface.experiments import mobilefacenet_normface

EXPERIMENT = dataclasses.replace(
    mobilefacenet_normface.EXPERIMENT,
    name="mobilefacenet-c-contrastive",
    loss=Loss(softmax=SoftmaxTerm(weight=0.0), c_contrastive=CContrastiveTerm(weight=1.0)),
)
