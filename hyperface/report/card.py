"""Builds the model card of an exported network, `README.md`, in the layout that model hubs read."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LIBRARY = "hyperface"
TASK = "image-feature-extraction"
"""The name that model hubs have for networks that turn an image into a feature."""
USES = {
    "safetensors": "the weights; `hyperface.weights.read_backbone` opens them",
    "stablehlo": "a program; `jax.export.deserialize(data).call(images)` runs it",
    "onnx": 'ONNX; input "images", output "features", for any runtime of ONNX',
}
"""How to use the file of each format, by the suffix of its name."""


@dataclass(frozen=True)
class Card:
    """The content of the model card of an exported network, from which its text is written."""

    record: Mapping[str, Any]
    """The content of the export's `embedder.json`. The card uses its entries "model", "input",
    "pixels", "normalize", "mirror", "files" and "step"."""
    feature_dim: int
    """Number of dimensions of the network's feature of one image, without its mirror image."""
    license: str | None = None
    """Licence of the weights, by the name that model hubs use; None if it is not known."""
    init_from: str | None = None
    """The weights from which the training started; None for random weights. If a weight file was
    exported, and not a run, this is the weight file."""
    experiment: Mapping[str, Any] | None = None
    """The configuration of the run, as a dictionary; None if a weight file was exported."""
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a protocol -> the record of its result, as an `evaluation.json` has them under
    "protocols". Empty if no protocol was run."""

    def text(self) -> str:
        """Returns the text of `README.md`: YAML between two lines "---", then Markdown."""
        return "\n".join([*self._front_matter(), *self._body(), ""])

    def _title(self) -> str:
        return self.experiment["name"] if self.experiment else self.record["model"]

    def _front_matter(self) -> list[str]:
        lines = [
            "---",
            f"library_name: {LIBRARY}",
            f"pipeline_tag: {TASK}",
            f"license: {_quoted(self.license or 'unknown')}",
            "tags:",
            *(f"- {tag}" for tag in ("face-verification", "face-recognition", "jax")),
        ]
        results = [
            line for name, scored in self.protocols.items() for line in _result(name, scored)
        ]
        if results:
            lines += ["model-index:", f"- name: {_quoted(self._title())}", "  results:", *results]
        return [*lines, "---", ""]

    def _body(self) -> list[str]:
        # The first axis is the batch.
        height, width, channels = self.record["input"][1:]
        length = "of unit length" if self.record["normalize"] else "as the network makes them"
        lines = [
            f"# {self._title()}",
            "",
            f"A `{self.record['model']}` that turns a picture of an aligned face into a feature of "
            f"{self._length()} numbers. The cosine of two features says how alike the faces are.",
            "",
            "## Input and output",
            "",
            f"- Input: float32 `[batch, {height}, {width}, {channels}]`, "
            f"{'RGB' if channels == 3 else 'grey'}, pixels as `{self.record['pixels']}`.",
            f"- Output: float32 `[batch, {self._length()}]`, {length}.",
            f"- Mirror image: {self.record['mirror']}.",
            "",
            "| file | use | SHA-256 |",
            "|---|---|---|",
            *(
                f"| `{name}` | {USES[name.rpartition('.')[2]]} | `{entry['sha256']}` |"
                for name, entry in self.record["files"].items()
            ),
            "",
            "## Training",
            "",
            *self._training(),
            "",
            "## Results",
            "",
        ]
        scored = [line for name, found in self.protocols.items() for line in _table(name, found)]
        return lines + (scored or ["No protocol was run on this network before it was exported."])

    def _length(self) -> int:
        # Features of image and mirror image stand one behind the other.
        return self.feature_dim * (2 if self.record["mirror"] == "concat" else 1)

    def _training(self) -> Iterable[str]:
        if self.experiment is None:
            yield f"- Not trained by this program: these are the weights of {self.init_from}."
            yield "- Data, people and loss of their training are not known here."
        else:
            data, loss = self.experiment["data"], _terms_in_use(self.experiment["loss"])
            yield f"- Data: `{data['name']}`, split `{data['train_split']}`."
            yield f"- Loss: `{json.dumps(loss, sort_keys=True)}`."
            yield f"- Steps: {self.record['step']:,} of {data['batch_size']} images."
            start = self.init_from or "random weights"
            yield f"- Start: {start}."
        if self.license is None:
            what = "the weights" if self.experiment is None else "the start and the data"
            yield f"- Licence: not stated. Look up that of {what} before you pass these files on."
        else:
            yield f"- Licence: {self.license}."


def _terms_in_use(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the loss without the terms whose weight is 0."""
    return {
        name: value
        for name, value in loss.items()
        if not (isinstance(value, Mapping) and value.get("weight") == 0)
    }


def _result(name: str, scored: Mapping[str, Any]) -> list[str]:
    """Returns the lines of one entry of `model-index`, which has the scores of one protocol."""
    lines = [
        "  - task:",
        "      type: face-verification",
        "    dataset:",
        f"      type: {_quoted(name)}",
        f"      name: {_quoted(name)}",
        "    metrics:",
    ]
    for figure, value in scored["figures"].items():
        lines += [f"    - type: {_quoted(figure)}", f"      value: {value:.6g}"]
    return lines


def _table(name: str, scored: Mapping[str, Any]) -> list[str]:
    """Returns the Markdown lines on one protocol: its table of scores, and the procedure."""
    spreads = scored["spreads"]
    rows = [
        f"| {figure} | {value:.4f}" + (f" ± {spreads[figure]:.4f} |" if figure in spreads else " |")
        for figure, value in scored["figures"].items()
    ]
    steps: Sequence[str] = scored["steps"]
    spread = [f"- ± is the {scored['spread']}"] if spreads and scored.get("spread") else []
    head = [f"### {name}", "", "| figure | measured |", "|---|---|"]
    return [*head, *rows, "", *(f"- {step}" for step in steps), *spread, ""]


def _quoted(text: str) -> str:
    """Returns a text as a quoted YAML scalar; every JSON string is one."""
    # Names may contain colons and quotation marks, which have a meaning in YAML.
    return json.dumps(text, ensure_ascii=False)
