"""Fine-tunes Wu's LightCNN-9 on CASIA-WebFace with NormFace's normalised softmax.

Source: NormFace, 5.1 and Table 4: learning rate 0.0001, momentum 0.9, batch 256, and the mean of
  five snapshots that are 1,000 steps apart.
Command: hyperface train casia-lightcnn9-normface --init-from runs/casia-lightcnn9-softmax
Data: as for casia-lightcnn9-softmax. `--init-from` also accepts the released weight files.
Time: not known.
Published: LFW 98.75 ± 0.008 % (NormFace, Table 4).
Measured: not run, because the data was not available.
"""

import dataclasses

from hyperface.config.experiment import Evaluation
from hyperface.config.loss import Loss
from hyperface.experiments import casia_lightcnn9_softmax

BASELINE = casia_lightcnn9_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASELINE,
    name="casia-lightcnn9-normface",
    steps=10_000,
    # A snapshot is scored from its checkpoint.
    checkpoint_every=1_000,
    data=dataclasses.replace(BASELINE.data, batch_size=256),
    # The default loss is NormFace's softmax with a learned scale.
    loss=Loss(),
    optimizer=dataclasses.replace(BASELINE.optimizer, learning_rate=1e-4, boundaries=()),
    evaluation=Evaluation(snapshots=5, snapshot_every=1_000),
)
