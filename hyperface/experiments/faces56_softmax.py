"""Trains plain softmax from random weights on 2,733 people, at half the papers' resolution.

Source: NormFace, Eq. 1. Network, sizes and solver are chosen for two CPU cores. The rate is the one
  that is best for plain softmax and for NormFace alike, by the accuracy of people held out, in runs
  of 900 steps (0.05: 65.51 %; 0.15: 73.42 %; 0.4 diverges).
Command: hyperface train faces56-softmax
Data: 23,506 images of 56 x 48 of 2,733 people, and 840 of 60 others, by
  python -m hyperface.reproduce.small_faces celeba.zip cfp.zip overlap.csv --out people
  --half-size celeba_56x48.zip --least 5, and hyperface prepare people --out faces56 --held-out 60.
Time: 9 minutes on two CPU cores.
Published: none on this data.
Measured: see the results of NormFace in the documentation.
"""

from hyperface.config.experiment import Data, Evaluation, Experiment, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="faces56-softmax",
    steps=3600,
    log_every=20,
    checkpoint_every=600,
    data=Data(name="faces56", batch_size=128, shift=2),
    model=Model(name="sphereface-mini", feature_dim=128),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0)),
    optimizer=Optimizer(learning_rate=0.15, schedule="cosine", warm_up=100),
    evaluation=Evaluation(batch_size=200),
)
