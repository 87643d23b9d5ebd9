"""C-contrastive loss fine-tuned from a softmax baseline on real faces.

Source: NormFace, Eq. 10, m = 1, and 5.1.
Command: python -m launch.train faces-c-contrastive --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 79.94 ± 0.13 and 80.47 ± 0.11 % over five snapshots, seeds 0 and 1;
  TAR 29.45 and 29.39 % at FAR 1 %, 13.53 and 13.59 % at 0.1 %. Before: 80.25, 28.72 and 13.21 %.
"""

import dataclasses

from hyperface.objective import CContrastiveTerm, Loss, SoftmaxTerm
from launch.experiments import faces_softmax

BASELINE = faces_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASELINE,
    name="faces-c-contrastive",
    steps=600,
    checkpoint_every=200,
    loss=Loss(softmax=SoftmaxTerm(weight=0.0), c_contrastive=CContrastiveTerm(weight=1.0)),
    # Fresh heads at a large rate would undo the backbone: they learn alone first.
    optimizer=dataclasses.replace(BASELINE.optimizer, freeze_backbone=200, boundaries=(200,)),
    evaluation=dataclasses.replace(BASELINE.evaluation, snapshots=5, snapshot_every=40),
)
