"""Trains Wu's LightCNN-9 on CASIA-WebFace with softmax: a baseline that NormFace fine-tunes.

Source: the released LightenedCNN-B files and their author's answers. Images are 128 x 128 grey, the
  batch is 32, and dropout before the classifier is 0.75. The learning rate is 0.001, inside the
  velocity, and is multiplied by 0.457 every 500,000 of 2,000,000 steps. Gradients are clipped at
  norm 150. Biases have twice the learning rate and no decay.
Command: hyperface train casia-lightcnn9-softmax
Data: CASIA-WebFace without the people of LFW, aligned to 144 x 144 by eyes and mouth, by
  hyperface prepare SOURCE --out casia144 --channels 1 --held-out 300. Crops of 128 x 128 are
  random in training and central in evaluation.
Time: not known.
Published: LFW 98.13 % (NormFace, Table 4).
Measured: not run, because the data was not available.
"""

from hyperface.config.experiment import Data, Experiment, Group, Groups, Model, Optimizer
from hyperface.config.loss import Loss, SoftmaxTerm

EXPERIMENT = Experiment(
    name="casia-lightcnn9-softmax",
    steps=2_000_000,
    log_every=100,
    checkpoint_every=10_000,
    data=Data(name="casia144", batch_size=32, crop=(128, 128)),
    model=Model(name="lightcnn-9", feature_dim=256),
    loss=Loss(softmax=SoftmaxTerm(normalize="none", scale=1.0, bias=True, dropout=0.75)),
    optimizer=Optimizer(
        learning_rate=1e-3,
        boundaries=(500_000, 1_000_000, 1_500_000),
        # The gamma of the released solver.
        factor=0.457305051927326,
        rate_in_velocity=True,
        clip=150.0,
        groups=Groups(biases=Group(rate=2.0, decay=0.0)),
    ),
)
