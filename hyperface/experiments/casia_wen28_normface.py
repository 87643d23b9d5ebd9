"""Fine-tunes Wen's 28-layer ResNet on CASIA-WebFace with NormFace's normalised softmax.

Source: NormFace, 5.1 and Table 2: learning rate 0.001, momentum 0.9, batch 256, about 5,000 steps
  to converge, and the mean of five snapshots that are 1,000 steps apart. The released file
  initialises the scale with 10 and decays it. Here its initial value is 11.5, where Proposition 2's
  bound is 0.1, and it is not decayed.
Command: hyperface train casia-wen28-normface --init-from runs/casia-wen28-softmax
Data: as for casia-wen28-softmax. `--init-from` also accepts a .caffemodel of the network.
Time: not known.
Published: LFW 99.16 ± 0.025 % (NormFace, Table 2).
Measured: not run, because the data was not available.
"""

import dataclasses

from hyperface.config.experiment import Evaluation
from hyperface.config.loss import Loss
from hyperface.experiments import casia_wen28_softmax

BASELINE = casia_wen28_softmax.EXPERIMENT

EXPERIMENT = dataclasses.replace(
    BASELINE,
    name="casia-wen28-normface",
    steps=10_000,
    # The default loss is NormFace's softmax with a learned scale.
    loss=Loss(),
    optimizer=dataclasses.replace(BASELINE.optimizer, learning_rate=1e-3, boundaries=()),
    evaluation=Evaluation(snapshots=5, snapshot_every=1_000),
)
