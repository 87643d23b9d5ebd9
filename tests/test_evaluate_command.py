"""The evaluation command: a run, an export, pixels or foreign features, scored alike."""

import dataclasses
import errno
import io
import json
import pickle
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from named_people import write_lists
from PIL import Image
from processes import in_processes

from hyperface.data.datasets import open_split
from hyperface.data.pipeline import evaluation_batches
from hyperface.errors import InputError
from hyperface.evaluate import evaluator
from hyperface.files import digest
from hyperface.protocols.features import NamedFeatures, check
from hyperface.protocols.pair_rules import PRESETS
from hyperface.runs import evaluate, evaluate_own, evaluate_plan, export, prepare
from hyperface.runs.evaluate_run import FeatureCache, digests
from hyperface.train.checkpoint.manager import Checkpoints


@pytest.fixture(scope="module")
def listed(tiny_data, tmp_path_factory):
    """A list of pairs of the test split of `tiny_data`: forty of each kind in four folds."""
    rng = np.random.default_rng(5)
    lines = ["first,second,same,fold"]
    for number in range(80):
        one = 6 + number % 4
        other = one if number < 40 else 6 + (one - 5) % 4
        i, j = rng.permutation(8)[:2]
        lines.append(f"person{one}/{i}.png,person{other}/{j}.png,{int(number < 40)},{number % 4}")
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    unique = dict.fromkeys(lines)
    path.write_text("\n".join(unique) + "\n")
    return path


@pytest.fixture
def score(tiny_data, listed, tmp_path):
    """Runs the command on the list and returns the record of one protocol."""

    def run(source, *options, out="out", name="pairs"):
        common = ["--protocol", "pairs", "--pairs", str(listed), "--dataset", "tiny"]
        folders = ["--data-dir", str(tiny_data), "--out", str(tmp_path / out)]
        evaluate.main([str(source), *common, *folders, *map(str, options)])
        return json.loads((tmp_path / out / "evaluation.json").read_text())["protocols"][name]

    return run


def features_of(state, data_dir):
    """Names and features, sum of image and mirror image, computed apart."""
    split = open_split("tiny", "test", data_dir)
    (batch,) = evaluation_batches(split, batch_size=32)

    @jax.jit
    def embed(images):
        return state.network.apply(state.evaluated, images, method="embed")

    features = embed(batch["images"]) + embed(batch["images"][:, :, ::-1])
    return [record["name"].decode() for record in split.records], np.asarray(features)


def test_a_run_its_export_and_its_features_score_alike(
    random_run, tiny_data, score, tmp_path, capsys
):
    folder, state = random_run
    of_run = score(folder, "--preset", "plain")
    shown = capsys.readouterr().out
    assert "Pairs of tiny" in shown
    assert "network sphereface-mini of run at step 8, images of 16 x 14 x 3" in shown
    assert "features of image and mirror image merged by sum" in shown

    export.main([str(folder), "--out", str(tmp_path / "exported")])
    of_export = score(tmp_path / "exported", "--preset", "plain", out="b")
    names, features = features_of(state, tiny_data)
    np.savez(tmp_path / "features.npz", names=names, features=features)
    of_features = score(tmp_path / "features.npz", "--preset", "plain", out="c")
    for other in (of_export, of_features):
        assert other["figures"] == pytest.approx(of_run["figures"], abs=1e-6)
        assert other["details"]["fold accuracies"] == of_run["details"]["fold accuracies"]
    assert of_export["steps"][1].startswith("exported sphereface-mini of step 8")

    for name in ("evaluation.html", "figures/roc.png", "figures/similarities-pairs.png"):
        assert (tmp_path / "out" / name).exists()
    assert "Hardest pairs" in (tmp_path / "out/evaluation.html").read_text()
    assert "Hardest pairs" not in (tmp_path / "c/evaluation.html").read_text()  # No images at hand.
    record = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert record["settings"]["versions"]["jax"] == jax.__version__
    assert list(record["settings"]["data"]) == ["tiny, step newest, area / 1"]
    assert "src='data:image/png;base64," in (tmp_path / "out/evaluation.html").read_text()
    assert not list((tmp_path / "out").glob("features-*"))


@pytest.fixture
def two_steps(random_run, tmp_path):
    """A run whose checkpoints 4 and 8 have different weights."""
    folder, state = random_run
    with Checkpoints(folder / "checkpoints", read_only=True) as stored:
        meta = stored.meta(8)
    other = state.replace(average=jax.tree.map(jnp.flip, state.average))
    with Checkpoints(tmp_path / "run/checkpoints") as stored:
        stored.save(4, other, meta)
        stored.save(8, state, meta)
    return tmp_path / "run"


def test_a_card_has_the_scores_of_the_exported_weights_only(two_steps, score, tmp_path):
    def card(*options):
        out = ["--out", str(tmp_path / "exported"), "--format", "safetensors"]
        export.main([str(two_steps), *out, *options])
        return (tmp_path / "exported/README.md").read_text()

    none, given = "No protocol was run", ["--evaluation", f"{two_steps}/evaluation/evaluation.json"]
    score(two_steps, "--checkpoint", 4, "--preset", "plain", out="run/evaluation")
    assert none in card()
    assert none not in card("--step", "4", *given)
    with pytest.raises(InputError, match=r"expected results of .*run at step 8 as it is"):
        card(*given)
    # The newest step is 8, whichever of the two names the commands are given.
    score(two_steps, "--checkpoint", 8, "--preset", "plain", out="run/evaluation")
    assert none not in card()
    # The mean of two checkpoints is the score of neither.
    score(two_steps, "--checkpoint", 4, 8, "--preset", "plain", out="run/evaluation")
    for step in "48":
        with pytest.raises(InputError, match=rf"expected results of .*run at step {step} as"):
            card("--step", step, *given)


@pytest.mark.slow
def test_two_processes_score_a_run_as_one(random_run, score, listed, tiny_data, tmp_path):
    """Batches of 256 and 32 images: the second process has none of its own, and writes nothing."""
    folder, _ = random_run
    command = ["-m", "hyperface", "evaluate", folder, "--protocol", "pairs", "--pairs", listed]
    command += ["--dataset", "tiny", "--data-dir", tiny_data, "--out", tmp_path / "two"]
    first, second = in_processes(command, 2, 2)
    assert "Report: " in first
    assert second == ""
    found = json.loads((tmp_path / "two/evaluation.json").read_text())["protocols"]["pairs"]
    assert found["figures"] == pytest.approx(score(folder)["figures"])


def test_pixels_pca_and_mirror(score, tmp_path):
    plain = score("pixels", "--preset", "plain")
    assert plain["figures"]["accuracy"] > 0.9  # Patterns with little noise.
    with np.load(tmp_path / "out/pairs-pairs.npz") as pairs:
        decided = {name: pairs[name] for name in pairs}
    assert decided["right"].mean() == pytest.approx(plain["figures"]["accuracy"])
    assert {one.split("/")[0] for one in decided["first"]} == {f"person{n}" for n in range(6, 10)}
    thresholds = np.array(plain["details"]["fold thresholds"])
    assert ((decided["score"] >= thresholds.max()) <= (decided["same"] == decided["right"])).all()
    fitted = score("pixels", "--pca", "0.9", "--mirror", "max")
    assert "keeping 90 % of the variance" in " ".join(fitted["steps"])
    assert "merged by max" in " ".join(fitted["steps"])
    none = score("pixels", "--pca", "0")
    assert none["figures"] == plain["figures"]
    fixed = score("pixels", "--pca", "3")
    assert fixed["details"]["dimensions"] == [3] * 4


def test_pca_is_chosen_beside_the_preset(tmp_path):
    """Videos, and lists with another preset by default, keep theirs."""
    write_lists(tmp_path, {"protocols/lfw/pairs.txt": ["10 300"]})
    path = tmp_path / "features.npz"
    for given, pca in ((None, None), (0.0, 0), (0.9, 0.9), (3.0, 3)):
        (task,) = evaluate.plan(
            evaluate.Evaluate(path, protocol="lfw", pca=given, data_dir=tmp_path)
        )
        chosen = task.settings
        assert (chosen.rules, chosen.pca) == (None, pca)
        assert chosen.video_rules() == PRESETS["normface"]
        assert chosen.pair_rules().pca == (0.995 if pca is None else pca or None)


def test_the_data_of_a_run_is_recorded_as_it_is_fed(random_run, tiny_data, tmp_path, monkeypatch):
    shutil.copytree(random_run[0], tmp_path / "run")
    restored, network = evaluate_own.restored, evaluator.evaluate_network

    def cropped(*args, crop=(14, 12)):
        experiment, state = restored(*args)
        data = dataclasses.replace(experiment.data, crop=crop)
        return dataclasses.replace(experiment, data=data), state

    def whole(experiment, *rest):  # The network is one of whole images.
        data = dataclasses.replace(experiment.data, crop=None)
        return network(dataclasses.replace(experiment, data=data), *rest)

    monkeypatch.setattr(evaluate_own, "restored", cropped)
    monkeypatch.setattr(evaluator, "evaluate_network", whole)
    evaluate.main([str(tmp_path / "run"), "--data-dir", str(tiny_data)])
    record = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert (
        record["settings"]["data"] == open_split("tiny", "test", tiny_data, crop=(14, 12)).facts()
    )


def test_several_checkpoints_are_averaged(random_run, score, tmp_path):
    score(random_run[0])
    assert (tmp_path / "out/pairs-pairs.npz").exists()
    record = score(random_run[0], "--checkpoint", 4, 8)
    assert record["spread"] == "standard deviation over 2 snapshots"
    assert record["spreads"]["accuracy"] == 0.0  # Both hold the same numbers.
    # Pairs of one checkpoint would pass for those of the mean.
    assert not (tmp_path / "out/pairs-pairs.npz").exists()
    assert len(record["details"]["snapshots"]["accuracy"]) == 2
    networks = [step for step in record["steps"] if "network sphereface-mini" in step]
    for number, step in ((1, 4), (2, 8)):
        told = f"snapshot {number}: network sphereface-mini of run at step {step}, "
        assert networks[number - 1].startswith(told)


def test_low_resolution_is_a_protocol_each(score, tmp_path):
    whole = score("pixels", "--resolution", 1, 4, 16, "--preset", "plain")
    protocols = json.loads((tmp_path / "out/evaluation.json").read_text())["protocols"]
    assert list(protocols) == ["pairs", "pairs-area4", "pairs-area16"]
    assert "made 16 times smaller in area" in " ".join(protocols["pairs-area16"]["steps"])
    digests = json.loads((tmp_path / "out/evaluation.json").read_text())["settings"]["data"]
    assert len(set(digests.values())) == 3
    assert (tmp_path / "out/figures/resolution.png").exists()
    assert whole["figures"]["accuracy"] >= protocols["pairs-area16"]["figures"]["accuracy"]


def test_megaface_by_command(tiny_data, tmp_path, rng, capsys):
    np.save(tmp_path / "d.npy", rng.standard_normal((50, 16 * 14 * 3)).astype(np.float32))
    (tmp_path / "noise.txt").write_text("person6/0.png\n")
    evaluate.main(
        ["pixels", "--protocol", "megaface", "--dataset", "tiny", "--data-dir", str(tiny_data),
         "--distractors", str(tmp_path / "d.npy"), "--noises", str(tmp_path / "noise.txt"),
         "--out", str(tmp_path / "out")]
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "31 probes of 4 people, 50 distractors" in shown
    assert "distractors have no names and are all taken" in shown
    assert "32 images of tiny/1.0.0, as they came" in shown
    assert "the pixels themselves are the features, (pixel - 127.5) / 128" in shown
    assert "noise lists: noise.txt" in shown
    assert "1 probes left out" in shown
    record = json.loads((tmp_path / "out/evaluation.json").read_text())["protocols"]["megaface"]
    assert record["figures"]["rank-1"] == 1.0
    assert (tmp_path / "out/figures/cmc.png").exists()


def test_megaface_by_its_lists(tiny_data, tmp_path, rng, capsys):
    """A list of probes and one of distractors, whose names stand beside the .npy."""
    np.save(tmp_path / "d.npy", rng.standard_normal((50, 16 * 14 * 3)).astype(np.float32))
    (tmp_path / "d.txt").write_text("".join(f"d/{i}.jpg\n" for i in range(50)))
    (tmp_path / "noise.txt").write_text("d/3.jpg\n")
    names = [f"person{p}/{i}.png" for p in (6, 7) for i in range(3)]
    probes = {"path": names, "id": [name[:7] for name in names]}
    (tmp_path / "probes.json").write_text(json.dumps(probes))
    (tmp_path / "list_40").write_text(json.dumps({"path": [f"d/{i}.jpg" for i in range(40)]}))
    lists = {"--noises": "noise.txt", "--probe-list": "probes.json", "--distractor-list": "list_40"}
    given = [word for option, name in lists.items() for word in (option, str(tmp_path / name))]
    common = ["pixels", *MEGAFACE[:4], "--data-dir", str(tiny_data), *given]
    common += ["--out", str(tmp_path / "out")]
    evaluate.main([*common, "--distractors", str(tmp_path / "d.npy")])
    shown = capsys.readouterr().out
    for words in (
        "probes: the 6 of probes.json",
        "distractors: the 40 of list_40",
        "6 probes of 2 people, 39 distractors, 12 searches",
        "0 probes left out, 1 distractors left out",
    ):
        assert words in shown
    record = json.loads((tmp_path / "out/evaluation.json").read_text())
    files = record["settings"]["files"]
    assert files == {f"{tmp_path.name}/{name}": digest(tmp_path / name) for name in lists.values()}
    assert set(record["settings"]["versions"]) >= {"python", "flax", "scipy", "jax"}
    assert record["settings"]["devices"] == ["8 x cpu"]
    assert len(record["protocols"]["megaface"]["cmc"]) == 100
    (tmp_path / "d.txt").write_text("one\n")
    with pytest.raises(
        InputError, match=r"d.txt: expected a name for each of 50 features, .*found 1"
    ):
        evaluate.main([*common, "--distractors", str(tmp_path / "d.npy")])


def test_files_of_one_name_are_all_recorded(tmp_path):
    for path in ("protocols/a/list.txt", "protocols/b/list.txt", "c/list.txt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(path)
    protocols = tmp_path / "protocols"
    paths = [protocols / "a/list.txt", protocols / "b/list.txt", tmp_path / "c/list.txt"]
    found = digests([*paths, paths[0], protocols / "a"], protocols)
    assert list(found) == ["a/list.txt", "b/list.txt", "c/list.txt", "a"]
    assert [found[n] for n in ("a/list.txt", "b/list.txt", "c/list.txt")] == list(
        map(digest, paths)
    )
    # Outside of the protocol files, two last parts may be those of another path.
    others = [tmp_path / "d/c/list.txt", tmp_path / "e/c/list.txt", tmp_path / "e/a/list.txt"]
    for path in others:
        path.parent.mkdir(parents=True)
        path.write_text(str(path))
    found = digests([*others, *paths], protocols)
    assert {*found.values()} == {*map(digest, [*others, *paths])}
    assert list(found)[:3] == ["c/list.txt", "e/c/list.txt", "e/a/list.txt"]
    assert (found["a/list.txt"], found["c/list.txt"]) == (digest(paths[0]), digest(others[0]))


def test_features_of_one_file_name_are_both_recorded(tmp_path, rng):
    images = []
    for folder in ("probes", "distractors"):
        path = tmp_path / folder / "features.npz"
        path.parent.mkdir()
        np.savez(path, names=["a", "b"], features=rng.standard_normal((2, 3)))
        images.append(evaluate_plan.Images(path))
    cache = FeatureCache(tmp_path)
    named = cache.of(images[0])
    cache.distractors(images[1])
    assert len(cache.digests) == 2
    assert cache.digests[str(images[0])] == named.digest()


def test_a_file_of_distractors_is_not_read_as_a_whole(tmp_path, rng):
    """Neither its digest nor the check of features holds a copy of it."""
    features = rng.standard_normal((40_000, 64)).astype(np.float32)
    np.save(tmp_path / "d.npy", features)
    names = [str(i) for i in range(40_000)]
    tracemalloc.start()
    images = evaluate_plan.Images(tmp_path / "d.npy")
    found, none = FeatureCache(tmp_path).distractors(images)
    check(NamedFeatures(names, features), "here")
    NamedFeatures(names, features).digest()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert none is None
    assert found.shape == features.shape
    assert peak < features.nbytes / 1.4


LISTED = ["--protocol", "pairs", "--pairs", "{list}", "--dataset", "tiny"]


MEGAFACE = ["--protocol", "megaface", "--dataset", "tiny", "--distractors"]


@pytest.mark.parametrize(
    ("protocols", "option"),
    [
        ("blufr,ijba", ["--bootstrap", "9"]),
        ("cfp-ff,cfp-fp", ["--bootstrap", "9"]),
        ("lfw,ytf", ["--rule", "strict"]),
        ("lfw,ytf", ["--rule", "blufr"]),
        ("lfw,blufr", ["--gammas", "2"]),
        ("ytf", ["--pca", "0.9"]),
        ("blufr,ijbc,megaface", ["--preset", "plain"]),
        ("lfw", ["--pool-media"]),
        ("lfw", ["--noises", "a.txt"]),
        ("lfw", ["--distractors", "a.npy"]),
        ("lfw", ["--probe-list", "a.json"]),
        ("lfw", ["--distractor-list", "a.json"]),
        ("lfw", ["--pairs", "a.csv"]),
    ],
)
def test_options_that_no_protocol_takes_are_refused(tmp_path, protocols, option):
    with pytest.raises(InputError, match=f"{option[0]}: expected one of the protocols that take"):
        evaluate.main(["pixels", "--protocol", protocols, "--data-dir", str(tmp_path), *option])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("pixels", ["--protocol", "lwf"], r"unknown protocol 'lwf'.*Did you mean 'lfw'"),
        ("pixels", ["--protocol", "lfw", "--dataset", "tiny"], r"the protocol's file at .*pairs.t"),
        ("pixels", ["--protocol", "lfw"], r"the protocol's file at .*pairs.t"),
        (
            "pixels",
            ["--protocol", "pairs", "--pairs", "{list}"],
            "pairs: expected --dataset, whose",
        ),
        ("pixels", ["--protocol", "pairs", "--dataset", "tiny"], "pairs: expected --pairs FILE"),
        ("pixels", ["--protocol", "megaface", "--dataset", "tiny"], "expected --distractors"),
        ("pixels", [*MEGAFACE, "{tmp}/no.npy"], "a features file, found none at"),
        ("pixels", [*MEGAFACE, "nobody"], "expected the prepared data set 'nobody'"),
        ("pixels", [*MEGAFACE, "tiny", "--noises", "{tmp}/no.txt"], "no.txt: expected a file"),
        ("pixels", [*MEGAFACE, "tiny", "--probe-list", "{tmp}/no"], "no: expected a file"),
        (
            "pixels",
            [*MEGAFACE, "{tmp}/f.npz", "--resolution", "1", "4"],
            "--resolution: expected a data set of distractors",
        ),
        (
            "pixels",
            [*LISTED[:3], "{tmp}/no.csv", *LISTED[4:]],
            "--pairs: expected a list, found no",
        ),
        ("pixels", [*LISTED, "--bootstrap", "-1"], "--bootstrap: expected at least 0"),
        ("pixels", [], "Other sources need --protocol"),
        ("pixels", ["--checkpoint", "3"], "Other sources need --protocol"),
        ("pixels", ["--protocol", ","], "expected names of protocols, found none"),
        ("pixels", [*LISTED, "--checkpoint", "3"], "pixels: expected no checkpoint"),
        ("pixels", [*LISTED, "--resolution", "0"], "area factors from 1, found 0"),
        ("pixels", [*LISTED, "--pca", "nan"], "--pca: expected a share of variance"),
        (
            "pixels",
            ["--protocol", "ijba", "--gammas", "0"],
            "--gammas: expected at least 1, found 0",
        ),
        ("{tmp}/f.npz", ["--protocol", "megaface", "--distractors", "x"], "a data set needs a net"),
        ("nowhere", LISTED, "'pixels', or a file of weights .*, found nowhere"),
        ("{tmp}/f.npz", [*LISTED, "--checkpoint", "3"], "expected no --checkpoint"),
        ("{tmp}/f.npz", ["--protocol", "pairs", "--pairs", "{list}"], "found none of 'person6/"),
        ("pixels", ["--protocol", "lfw", "--pca", "1.5"], "--pca: expected a share of variance"),
    ],
)
def test_what_cannot_be_scored_is_one_clear_error(
    tiny_data, listed, tmp_path, rng, source, options, message
):
    np.savez(tmp_path / "f.npz", names=["a/1", "a/2"], features=rng.standard_normal((2, 4)))
    places = {"{tmp}": str(tmp_path), "{list}": str(listed)}
    for old, new in places.items():
        source = source.replace(old, new)
        options = [option.replace(old, new) for option in options]
    folders = ["--data-dir", str(tiny_data), "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match=message):
        evaluate.main([source, *options, *folders])


def test_a_verification_file_with_a_broken_image_is_scored_and_says_what_is_left_out(
    tmp_path, capsys, rng
):
    data = []
    for _ in range(80):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 14, 3), dtype=np.uint8)).save(out, "PNG")
        data.append(out.getvalue())
    data[4] = data[4][:40]
    (tmp_path / "a.bin").write_bytes(pickle.dumps((data, [True, False] * 20), 2))
    folders = ["--data-dir", str(tmp_path / "data")]
    prepare.main([str(tmp_path / "a.bin"), "--out", "broken", *folders])
    command = ["pixels", "--protocol", "pairs", "--dataset", "broken", *folders]
    evaluate.main([*command, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "39 pairs (19 same) of 78 images in 10 folds" in shown
    assert "1 pairs left out of the data set's list" in shown
    assert "000004,000005" in shown


def test_a_run_is_scored_where_it_cannot_be_written(random_run, tiny_data, tmp_path, monkeypatch):
    folder, out = random_run[0], tmp_path / "elsewhere"
    command = [str(folder), "--data-dir", str(tiny_data)]
    evaluate.main([*command, "--out", str(out)])
    assert json.loads((out / "evaluation.json").read_text())["figures"]
    assert not (folder / "evaluation.json").exists()

    def refuse(path, text):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("hyperface.owned.write_text", refuse)
    with pytest.raises(InputError, match=r"Read-only file system.*another folder by --out"):
        evaluate.main(command)


def test_options_of_protocols_need_one(random_run):
    with pytest.raises(InputError, match="--bootstrap: expected --protocol with it, found none"):
        evaluate.main([str(random_run[0]), "--bootstrap", "9"])
