"""Wen's 28-layer ResNet on CASIA-WebFace with plain softmax: the baseline that NormFace fine-tunes.

Source: the released caffe-face files: 112 x 96 images, batch 256, learning rate 0.1 inside the
  velocity, divided by 10 at 16,000 and 24,000 of 28,000 steps; biases at twice the rate without
  decay, a bias a class. Center loss at weight 0.008 makes Wen's own model of it.
Command: hyperface train casia-wen28-softmax
Data: CASIA-WebFace without the people of LFW, aligned to 112 x 96, one folder a person, by
  hyperface prepare SOURCE --out casia --held-out 300.
Time: not known: days of one accelerator's work are months of a CPU's.
Published: LFW 98.28 % (NormFace, Table 2).
Measured: not run: the data is not at hand.
"""

from hyperface.config.experiment import Data, Experiment, Group, Groups, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="casia-wen28-softmax",
    steps=28_000,
    log_every=100,
    checkpoint_every=1_000,
    data=Data(name="casia", batch_size=256),
    model=Model(name="wen28", feature_dim=512),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0, bias=True)),
    optimizer=Optimizer(
        learning_rate=0.1,
        boundaries=(16_000, 24_000),
        rate_in_velocity=True,
        groups=Groups(biases=Group(rate=2.0, decay=0.0)),
    ),
)
