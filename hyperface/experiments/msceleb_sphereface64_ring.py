"""Trains SphereFace-64 on MS-Celeb-1M with softmax and Ring loss ("SM + R" in Ring loss' tables).

Source: Ring loss, 3: learning rate 0.1, divided by 10 at 80,000 and 150,000 of 165,000 steps, and
  lambda 0.01. The paper does not state batch size, momentum and decay, which are here those of
  SphereFace's released solver. It does not state the learning rate of R either, which is here twice
  the network's, as in the code that was released under the name of Ring loss.
Command: hyperface train msceleb-sphereface64-ring
Data: MS-Celeb-1M cleaned to about 31,000 people and 3.5 million images, aligned to 112 x 96, by
  hyperface prepare SOURCE --out msceleb --held-out 300.
Time: not known.
Published: LFW 99.52 % (Ring loss, Table 1).
Measured: not run, because the data was not available.
"""

from hyperface.config.experiment import Data, Experiment, Group, Groups, Model, Optimizer
from hyperface.config.loss import Loss, RingTerm, SoftmaxTerm

EXPERIMENT = Experiment(
    name="msceleb-sphereface64-ring",
    steps=165_000,
    log_every=100,
    checkpoint_every=5_000,
    data=Data(name="msceleb", batch_size=256),
    model=Model(name="sphereface-64", feature_dim=512),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0), ring=RingTerm(weight=0.01)),
    optimizer=Optimizer(
        learning_rate=0.1,
        boundaries=(80_000, 150_000),
        # Caffe's momentum, as in SphereFace's released solver.
        rate_in_velocity=True,
        groups=Groups(biases=Group(rate=2.0, decay=0.0), radius=Group(rate=2.0, decay=0.0)),
    ),
)
