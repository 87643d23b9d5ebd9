"""Trains Wen's 28-layer ResNet on CASIA-WebFace with softmax: a baseline that NormFace fine-tunes.

Source: the released caffe-face files. Images are 112 x 96, and the batch is 256. The learning rate
  is 0.1, inside the velocity, and is divided by 10 at 16,000 and 24,000 of 28,000 steps. Biases
  have twice the learning rate and no decay, and there is one bias per class. With center loss of
  weight 0.008 this would be Wen's own model.
Command: hyperface train casia-wen28-softmax
Data: CASIA-WebFace without the people of LFW, aligned to 112 x 96, one folder per person, by
  hyperface prepare SOURCE --out casia --held-out 300.
Time: not known. It needs an accelerator; a CPU would take months.
Published: LFW 98.28 % (NormFace, Table 2).
Measured: not run, because the data was not available.
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
        # Caffe's momentum, in which a lower rate does not reduce the velocity at once.
        rate_in_velocity=True,
        groups=Groups(biases=Group(rate=2.0, decay=0.0)),
    ),
)
