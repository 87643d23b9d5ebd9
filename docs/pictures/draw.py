"""Draws the README's picture: `python docs/pictures/draw.py`.

The networks are those of `notebooks/toy_features.ipynb`, whose code is run; the picture has their
features after the last step.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).parent
NOTEBOOK = HERE.parents[1] / "notebooks/toy_features.ipynb"
TITLES = {
    "softmax": "softmax",
    "normalised, scale learned": "NormFace: normalised softmax",
    "softmax + ring": "softmax + Ring loss",
}


def main() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = {"__name__": "notebook"}
    for cell in code[:3]:  # Data, training and the three losses; the others draw.
        exec(compile(cell, NOTEBOOK.name, "exec"), found)
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.5), dpi=150, layout="constrained")
    for axes, (name, title) in zip(panels, TITLES.items(), strict=True):
        features = np.asarray(found["embed"](found["runs"][name][-1], found["train_x"]))
        axes.scatter(*features.T, s=4, c=found["train_y"], cmap="tab10", linewidths=0)
        axes.plot(0, 0, "+", color="black")
        reach = 1.05 * np.abs(features).max()
        axes.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
        axes.locator_params(nbins=5)
        axes.set_title(title, fontsize=11)
    figure.savefig(HERE / "digit_features.png")


if __name__ == "__main__":
    main()
