"""Trains a softmax baseline on real faces, from which the other `faces` experiments are fine-tuned.

Source: plain softmax, NormFace, Eq. 1. Network, sizes and solver are chosen for two CPU cores.
Command: hyperface train faces-softmax
Data: any source of aligned 112 x 96 faces, with the last 60 people held out, by
  hyperface prepare SOURCE --out faces --held-out 60. The scores below are for the 10,120 images of
  581 people that python -m hyperface.reproduce.small_faces prepares: 286 people of CelebA, and 295
  of CFP, of whom the last 60 are the test people. People who are or may be in LFW are left out, and
  so are people of CelebA who are in CFP.
Time: 17 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 79.75 ± 0.33 %, TAR 28.75 % at FAR 1 % and 12.93 % at 0.1 %. Raw pixels:
  60.36 ± 0.19 %, 5.02 % and 1.19 %. LFW, 6,000 pairs: 87.03 ± 0.60 %.
"""

from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="faces-softmax",
    steps=6000,
    log_every=20,
    checkpoint_every=1000,
    data=Data(name="faces", batch_size=64, shift=4),
    model=Model(name="sphereface-mini", feature_dim=128),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    optimizer=Optimizer(learning_rate=0.02, boundaries=(4000, 5400)),
    evaluation=Evaluation(batch_size=200),
)
