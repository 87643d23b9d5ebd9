"""A softmax baseline on real faces: what fine-tuning starts from.

Source: plain softmax, NormFace, Eq. 1; network, sizes and solver are chosen for two CPU cores.
Command: python -m launch.train faces-softmax
Data: any folder with one folder a person of aligned 112 x 96 faces, the last 60 people held out, by
  python -m launch.prepare SOURCE --out faces --held-out 60. Measured on 10,813 images
  of 623 people: 299 of CelebA and the 324 of CFP whose name is not in LFW, 60 of whom are the test.
Time: 5 minutes on two CPU cores.
Published: none on this data.
Measured: accuracy 78.80 ± 0.21 %, TAR 25.46 % at FAR 1 % and 10.88 % at 0.1 %. Raw pixels:
  61.29 ± 0.26 %, 4.49 % and 1.01 %.
"""

from hyperface.objective import Loss, SoftmaxTerm
from hyperface.train.experiment import Data, Evaluation, Experiment, Model, Optimizer

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
