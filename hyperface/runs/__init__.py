"""What the commands do, for Python and notebooks too.

from hyperface.runs import prepare, train

prepare.prepare(prepare.Prepare("photos/", out="mine", held_out=10))
run = train.train("my_experiment.py", workdir="runs/mine")
print(run.scores)
"""

from hyperface.extras import require

require("train", "tyro", "rich")
