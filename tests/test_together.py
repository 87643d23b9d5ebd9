"""A split embedded by all devices of all processes: the features of one process, bit by bit."""

import json

import numpy as np
import pytest
from processes import HERE, in_processes
from test_cli import SMALL

from hyperface.evaluate.embed import AllDevices, Devices
from hyperface.evaluate.evaluator import evaluate_network, evaluate_pixels


def test_all_local_devices_embed_what_one_does(random_run, tiny_experiment, tiny_data):
    """Batches of ten on eight devices become batches of sixteen."""
    _, state = random_run
    network = (tiny_experiment, state.network, state.evaluated, tiny_data)
    one, eight = evaluate_network(*network), evaluate_network(*network, AllDevices())
    np.testing.assert_allclose(eight.embeddings.features, one.embeddings.features, atol=2e-6)
    np.testing.assert_array_equal(eight.embeddings.labels, one.embeddings.labels)
    assert eight.figures() == one.figures()
    one, eight = (evaluate_pixels(tiny_experiment, tiny_data, d) for d in (Devices(), AllDevices()))
    np.testing.assert_array_equal(eight.embeddings.features, one.embeddings.features)


def embedded(run, data_dir, out, processes):
    """Features that each process came to, and what each printed last."""
    out.mkdir()
    outputs = in_processes([HERE / "embed_run.py", run, data_dir, out], processes, 2)
    found = [np.load(out / f"{process}.npy") for process in range(processes)]
    return found, [output.splitlines()[-1] for output in outputs]


def test_two_processes_embed_what_one_does_bit_by_bit(random_run, tiny_data, tmp_path):
    """32 images in batches of ten; the first alone scores."""
    folder, _ = random_run
    (known,), (figures,) = embedded(folder, tiny_data, tmp_path / "one", 1)
    found, said = embedded(folder, tiny_data, tmp_path / "two", 2)
    for features in found:
        np.testing.assert_array_equal(features, known)
    assert said == [figures, "not scored"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--shard-agents"]], ids=["whole", "split"])
def test_two_processes_train_score_and_report_as_one(tiny_data, tmp_path, options):
    """And score the checkpoint again; the second process writes and prints nothing."""
    results = {}
    for processes in (1, 2):
        run = tmp_path / str(processes)
        where = ["--data-dir", tiny_data, "--workdir", run]
        methods = ["orl-softmax", "--compare", "orl-normface"]
        command = ["-m", "hyperface", "train", *methods, *SMALL, *options, *where]
        outputs = in_processes(command, processes, 2 // processes)
        results[processes] = json.loads((run / "results.json").read_text())
        assert "Report: " in outputs[0]
    assert outputs[1] == ""
    assert (run / "report.html").exists()
    assert results[2]["results"] == results[1]["results"]
    command = ["-m", "hyperface", "evaluate", run, "--data-dir", tiny_data]
    outputs = in_processes(command, 2, 1)
    assert "orl-softmax, step 6" in outputs[0]
    assert outputs[1] == ""
    record = json.loads((run / "evaluation.json").read_text())
    assert record["figures"] == results[2]["results"]["orl-softmax"]
