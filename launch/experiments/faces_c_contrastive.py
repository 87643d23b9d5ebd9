"""C-contrastive loss fine-tuned from a softmax baseline on real faces.

Source: NormFace, Eq. 10, m = 1, and 5.1.
Command: python -m launch.train faces-c-contrastive --init-from runs/faces-softmax
Data: as for faces-softmax.
Time: 2 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 79.21 ± 0.02 % over the five snapshots (TAR 24.89 % at FAR 1 %, 10.56 % at
  0.1 %), 78.80 % before. With `--optimizer.freeze-backbone 0 --optimizer.boundaries 300`: 74.07 %.
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
