"""NormFace's fine-tuning of Wen's model: normalised softmax from a trained baseline.

Source: NormFace, 5.1 and Table 2: learning rate 0.001, momentum 0.9, batch 256; about 5,000 steps
  to converge, then the mean of five snapshots, 1,000 steps apart. The released file starts the
  scale at 10 and decays it; here it starts where Proposition 2's bound is 0.1, at 11.5.
Command: hyperface train casia-wen28-normface --init-from runs/casia-wen28-softmax
Data: as for casia-wen28-softmax. `--init-from` also takes a .caffemodel of the network.
Time: not known.
Published: LFW 99.16 ± 0.025 % (NormFace, Table 2).
Measured: not run: the data is not at hand.
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
    loss=Loss(),
    optimizer=dataclasses.replace(BASELINE.optimizer, learning_rate=1e-3, boundaries=()),
    evaluation=Evaluation(snapshots=5, snapshot_every=1_000),
)
