"""The papers item by item: nothing left out, exact figures, a report with both, honest reasons."""

import contextlib
import dataclasses
import html
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from matplotlib.figure import Figure

from hyperface import experiments, owned
from hyperface.config.experiment import check
from hyperface.data.datasets import open_split
from hyperface.errors import InputError
from hyperface.files import digest
from hyperface.report.planes import softmax_probability
from hyperface.reproduce import (
    command,
    commands,
    comparisons,
    digits,
    digits_normface,
    digits_planes,
    faces,
    gradients,
    page,
    papers,
    pictures,
    propositions,
    results_page,
    robustness,
    runs,
    scheduler,
    statements,
    untrained,
)
from hyperface.reproduce.item import (
    CODE,
    HOLDS,
    OF_FEATURES,
    PACKAGE,
    RUNS,
    Context,
    Entry,
    Outcome,
    code_digest,
    read_result,
    write_result,
)
from hyperface.runs import evaluate, program
from hyperface.runs.train import Train
from hyperface.train.logs import run_digest
from hyperface.train.loop import run_meta

FIGURES = {"normface": 9, "ringloss": 8}
TABLES = {"normface": 5, "ringloss": 4}
DATA_FREE = [
    (paper, item.name)
    for paper, items in papers.PAPERS.items()
    for item in items
    if item.measure != RUNS and not item.needs
]
FAILED = {
    ("ringloss", "equations-4-6"): {"Ring loss is convex in the feature"},
}
"""Statements of the papers that measuring refutes."""


def context(folder, **settings):
    return Context(folder, folder / "data", **settings)


def measured(paper, name, folder):
    """Figures of an item by row, and its pictures."""
    (item,) = papers.items(paper, (name,))
    outcome, figures = papers.measurement(item)(context(folder))
    found = {"table": outcome.entries, "figure": figures}
    assert set(item.gives) == {kind for kind, what in found.items() if what}
    return {(entry.row, entry.column): entry for entry in outcome.entries}


def has_dataset(data_dir, name):
    """Makes it look as if a data set were prepared, as far as `find` asks."""
    folder = data_dir / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")


def has_protocol_file(data_dir, name):
    """Makes it look as if a protocol file were there."""
    path = data_dir / "protocols" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("its list")


def page_of(path):
    """A report's text, without what styles its cells."""
    return re.sub(r"<(t[dh]) class='[a-z ]+'>", r"<\1>", path.read_text())


def judged(entry):
    """What is shown of a statement that is the only one of its paper."""
    verdicts = page.judge({"item": Outcome([entry], "")})
    return page.shown_entry(entry, verdicts["item", entry.row, entry.column])


def value(entries, row):
    (found,) = entries[row, ""].values
    return found


def test_no_score_overwrites_another(tmp_path, monkeypatch):
    """Tables share runs: what is scored with other options goes into a folder of its own."""
    monkeypatch.setattr(commands, "absent_data", lambda *_: [])
    known = papers.published()["small"]
    monkeypatch.setattr(commands, "small_options", lambda name, _: (known[name]["options"], []))
    made, small = {}, context(tmp_path, runs=tmp_path, seeds=2)
    for paper in papers.PAPERS:
        tables = papers.published()[paper]
        calls = commands.item_commands(papers.items(paper), tables, small)
        for printed in tables.values():
            if "evaluate" in printed:
                rows = [row["row"] for row in printed["rows"]]
                calls += commands.full_commands(printed, rows, small)
        for call in calls:
            made.setdefault(call.makes, set()).add(call.options)
    assert len(made) > 50
    assert [(path, options) for path, options in made.items() if len(options) > 1] == []


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_every_figure_and_table_has_an_item(paper):
    names = [item.name for item in papers.items(paper)]
    assert len(names) == len(set(names))
    wanted = {f"figure-{n}" for n in range(1, FIGURES[paper] + 1)}
    wanted |= {f"table-{n}" for n in range(1, TABLES[paper] + 1)}
    assert wanted <= set(names)
    if paper == "normface":
        assert {"proposition-1", "proposition-2", "proposition-3"} <= set(names)


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_items_and_published_figures_belong_together(paper):
    published = papers.published()
    items = {item.name: item for item in papers.items(paper)}
    assert set(published[paper]) <= set(items)
    for item in items.values():
        assert set(item.needs) <= set(published["data"]), item.name
        if item.measure == RUNS:
            printed = published[paper][item.name]
            columns = len(printed.get("columns", [""]))
            for row in printed["rows"]:
                # A statement about all columns, or of none that is printed, has one.
                assert len(row["values"]) in {columns, 1}, row
                assert len(row["values"]) == columns or set(row["values"]) <= {"", "yes"}, row
                assert {row.get("run", "sm"), row.get("small", "sm")} <= set(published["methods"])
                small = commands.SmallScale.of(printed).columns
                assert set(row.get("primary", ())) <= {*small}, row
            names = [row["row"] for row in printed["rows"] if row.get("unit") != HOLDS]
            by_row = {name: {0: float(n)} for n, name in enumerate(names)}
            scores = statements.Scores(by_row, by_row)
            tested = item.statements(scores) if item.statements else {}
            for row in printed["rows"]:
                if row.get("unit") == HOLDS:
                    assert all(part.margins for part in tested[row["row"]]), row
        else:
            assert callable(papers.measurement(item))


# Sums over the columns of the papers' tables, from the tables themselves, and sums of each figure
# times the number of its row, which see two rows swapped.
@pytest.mark.parametrize(
    ("paper", "name", "sums", "by_row"),
    [
        ("normface", "table-2", [1088.24 + 98.45], [7719.83]),  # One figure of the text, 5.2.
        ("normface", "table-3", [650.76, 490.23], [2577.08, 1930.03]),
        ("normface", "table-4", [492.78], [1479.87]),
        ("normface", "table-5", [660.48], [2645.08]),
        ("ringloss", "table-1", [1888.51], [18888.14]),
        ("ringloss", "table-2", [988.24 + 72.72, 1148.36], [8682.02, 8901.63]),  # Exp. 4.
        ("ringloss", "table-3", [994.05, 1309.53, 1447.0], [9821.2, 11304.24, 12362.67]),
        (
            *("ringloss", "table-4", [321.22, 722.89, 1238.29, 1463.76]),
            [3726.87, 7991.83, 11501.13, 13386.85],
        ),
    ],
)
def test_published_tables_are_copied_right(paper, name, sums, by_row):
    rows = [row for row in papers.published()[paper][name]["rows"] if row.get("unit") != HOLDS]
    printed = [[v.split()[0] if v not in ("", "-") else "0" for v in row["values"]] for row in rows]
    values = np.array(printed, float)
    np.testing.assert_allclose(values.sum(axis=0), sums, atol=0.005)
    np.testing.assert_allclose(np.arange(1, len(rows) + 1) @ values, by_row, atol=0.005)


@pytest.mark.parametrize("name", papers.published()["methods"])
def test_commands_of_table_rows_are_valid(name):
    method = papers.published()["methods"][name]
    experiment, *options = method["train"].split()
    default = Train(experiment=experiments.load(experiment))
    parsed = program.parse(Train, options, prog="train", description="", default=default).experiment
    check(parsed)
    assert method.get("start", name) in papers.published()["methods"]
    same = {"sm-r-0.01", "faces-ring-0.01"}  # They name the experiment's own weight.
    assert not options or parsed != default.experiment or name in same


def test_proposition_2_has_its_exact_values(tmp_path):
    entries = measured("normface", "proposition-2", tmp_path)
    exact = {
        (10575, 1): 8.2663, (10575, 4): 5.2709, (10575, 5): 4.2796, (10575, 10): 0.3918,
        (10575, 15): 0.0032, (10572, 1): 8.2660, (10572, 4): 5.2706, (10572, 10): 0.3917,
        (31000, 1): 9.3418, (31000, 10): 0.8783, (31000, 15): 0.0094, (10, 1): 1.3769,
        (10, 4): 0.1005, (1000, 1): 5.9085, (1000, 10): 0.0439,
    }  # fmt: skip
    for (n, s), bound in exact.items():
        assert value(entries, f"bound, n = {n:,}, l^2 = {s}") == pytest.approx(bound, abs=6e-5)
    for n, scale in ((10, 4.004), (10572, 11.517), (31000, 12.593), (1_000_000, 16.068)):
        row = f"l^2 for a bound of 0.1, n = {n:,}"
        assert value(entries, row) == pytest.approx(scale, abs=6e-4)
    for n, probability in ((10, 0.4509), (1000, 0.00734)):
        row = f"largest probability, n = {n:,}, l^2 = 1"
        assert value(entries, row) == pytest.approx(probability, abs=6e-5)
    assert value(entries, "loss of a guess, n = 10,575") == pytest.approx(9.2662, abs=6e-5)
    end = value(entries, "10 classes, l^2 = 1: loss after descent")
    assert 1.3769 - 6e-5 < end < 1.378


@pytest.mark.parametrize(("paper", "name"), DATA_FREE)
def test_statements_of_the_papers_hold_without_data(paper, name, tmp_path):
    entries = measured(paper, name, tmp_path)
    claims = {row: e.values for (row, _), e in entries.items() if e.unit == HOLDS}
    printed = papers.published()[paper].get(name, {"rows": []})["rows"]
    assert set(claims) == {row["row"] for row in printed if row.get("unit") == HOLDS}
    assert set(claims.values()) <= {(1.0,), (0.0,)}
    assert {row for row, held in claims.items() if not held[0]} == FAILED.get((paper, name), set())
    for (row, _), entry in entries.items():
        assert np.all(np.isfinite(entry.values)), row
        if "greatest difference" in row or "greatest error" in row:
            assert max(entry.values) < 1e-6, row


def test_softmax_is_compared_with_and_without_bias_and_scale(tmp_path):
    entries = measured("normface", "equations-1-6", tmp_path)
    assert value(entries, "Eq. 2: features whose class is that of the greatest logit") == 100
    cases = ("Eq. 1, without bias", "Eq. 1, with a bias", "Eq. 6, scale 1", "Eq. 6, scale 7")
    of = {case: {row for row, _ in entries if row.startswith(case)} for case in cases}
    assert [len(of[case]) for case in cases] == [3, 4, 4, 4]


def test_midpoints_tell_a_convex_function_from_a_concave_one(tmp_path):
    for sign, held in ((1, 1.0), (-1, 0.0)):
        of_norm = gradients._convexity(lambda x, s=sign: 100 + s * np.sum(x**2, axis=1), 1.5)
        found = {entry.row: entry.values[0] for entry in of_norm}
        assert found["Ring loss is convex in the feature"] == held
        assert found["Ring loss is convex in the feature's norm"] == held
    entries = measured("ringloss", "equations-4-6", tmp_path)
    assert value(entries, "loss of f and -f of norm R") == pytest.approx(0, abs=1e-15)
    assert value(entries, "loss of their midpoint") == pytest.approx(0.01 * 1.5**2 / 2, abs=1e-7)


def test_agents_without_margin_are_class_means(tmp_path):
    entries = measured("normface", "figure-6", tmp_path)
    assert value(entries, "m = 0: agents to their class means") < 0.01
    assert value(entries, "m = 1: agents to their class means") > 5


def test_features_that_agents_miss_are_marginal(tmp_path):
    entries = measured("normface", "figure-7", tmp_path)
    for row in ("contrastive, m = 0.6", "triplet, m = 0.4"):
        assert 10 < value(entries, f"{row}: pushed by samples") < 50
        assert value(entries, f"{row}: pushed by agents") < 5


def test_the_angular_margin_is_arccos_of_delta_at_equal_norms(tmp_path):
    entries = measured("ringloss", "figure-2", tmp_path)
    assert value(entries, "margin at r = 1, delta = 0.5") == pytest.approx(60, abs=1e-3)
    assert value(entries, "margin at r = 1, delta = 0.1") == pytest.approx(84.26, abs=0.01)


def test_a_report_holds_published_and_measured_values(tmp_path, capsys):
    options = ["normface", "--out", str(tmp_path), "--data-dir", str(tmp_path / "none")]
    command.main([*options, "--only", "proposition-2", "table-2", "figure-2"])
    text = page_of(tmp_path / "normface/report.html")
    assert "<td>8.27 nats</td><td>8.2663 nats</td><td>3.3</td>" in text
    assert "<td>softmax, normalised</td><td>99.16 ± 0.025 %</td><td>not run</td>" in text
    assert text.count("data:image/png;base64,") == 1
    assert not re.search(r"(src|href)=.(?!data:|#|[a-z0-9-]+/result.json)", text)
    heads = re.findall(r"<h2 id='\d+'>(.*?): ", text)
    assert heads == [item.place for item in papers.items("normface")]
    assert "proposition-2           39 values" in capsys.readouterr().out


def test_printed_commands_can_be_pasted(tmp_path):
    out = tmp_path / "run ü 1"
    command.main(["normface", "--out", str(out), "--data-dir", str(tmp_path), "--only", "figure-2"])
    text = html.unescape(page_of(out / "normface/report.html"))
    (line,) = re.findall(r"hyperface reproduce normface --only figure-2[^<\n]*", text)
    assert shlex.split(line)[-2:] == ["--out", str(out)]


def test_an_item_without_its_data_says_so(tmp_path):
    data = tmp_path / "none"
    options = ["--out", str(tmp_path), "--data-dir", str(data), "--only", "figure-2"]
    command.main(["normface", *options])
    text = page_of(tmp_path / "normface/report.html")
    assert f"Data set &#x27;mnist&#x27; is not at {data / 'mnist'}: MNIST" in text
    assert "To prepare it: hyperface prepare mnist." in text
    assert f"hyperface reproduce normface --only figure-2 --out {tmp_path}" in text
    assert not (tmp_path / "normface/figure-2/result.json").exists()
    assert "Data set &#x27;casia&#x27;" in text
    assert "hyperface prepare SOURCE --out casia --held-out 300" in text


def test_kept_results_are_used_until_settings_change_or_asked_for(tmp_path, monkeypatch):
    calls = []

    def count(context):
        calls.append(1)
        return Outcome([Entry.of("bound", len(calls))], "counted"), {}

    monkeypatch.setattr(papers, "measurement", lambda item: count)
    options = ["normface", "--out", str(tmp_path), "--only", "figure-5"]
    command.main(options)
    command.main(options)
    assert len(calls) == 1
    command.main([*options, "--fresh"])
    assert len(calls) == 2
    command.main(["normface", "--out", str(tmp_path), "--only", "proposition-1"])
    assert "<td>2.00</td>" in page_of(tmp_path / "normface/report.html")
    path = tmp_path / "normface/figure-5/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": {"version": "0"}}))
    command.main(options)
    assert len(calls) == 4


def test_results_are_of_all_the_code_that_makes_them(tmp_path, monkeypatch):
    files = {path for pattern in CODE for path in PACKAGE.glob(pattern)}
    names = {path.name for path in files}
    assert {"digits.py", "heads_at_once.py", "classwise.py", "roc.py", "loop.py"} <= names
    assert {"normalize.py", "theory.py", "loss.py", "images.py", "lists.py"} <= names
    assert {"agents.py", "faces_softmax.py", "embedding.py", "planes.py"} <= names
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(name)

    def digest_now():
        return code_digest.__wrapped__(("*.py",), tmp_path)

    before = digest_now()
    assert digest_now() == before
    (tmp_path / "b.py").write_text("other")
    changed = digest_now()
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({before, changed, digest_now()}) == 3
    (figure,) = papers.items("normface", ("figure-5",))
    keys = []
    for found in ("one", "other"):
        monkeypatch.setattr(commands, "code_digest", lambda found=found: found)
        keys.append(commands.result_key(context(tmp_path), figure))
    assert keys[0] != keys[1]


def test_results_are_of_the_protocol_files_and_of_whole_runs(tmp_path):
    (item,) = papers.items("normface", ("untrained",))
    made = context(tmp_path, runs=tmp_path)
    keys = [commands.result_key(made, item)]
    lists = tmp_path / "data/protocols"
    lists.mkdir(parents=True)
    (lists / "cfp_protocol.zip").write_text("its pairs")
    keys.append(commands.result_key(made, item))
    run = tmp_path / "faces-softmax"
    run.mkdir()
    (run / "metrics.jsonl").write_text("{}\n")
    assert commands.result_key(made, item) == keys[1]  # Not trained to the end.
    (run / "results.json").write_text("{}")
    keys.append(commands.result_key(made, item))
    assert keys[0] != keys[1] != keys[2]


def test_items_start_from_the_runs_that_they_read():
    def runs(paper, name):
        return papers.items(paper, (name,))[0].runs

    assert runs("normface", "table-1-faces") == runs("normface", "mirror") == (faces.RUN,)
    assert {*runs("normface", "proposition-3-faces")} == {*faces.DISTORTED.values()}
    assert runs("normface", "untrained") == (untrained.RUN,)
    assert runs("normface", "figure-8-fixed-features") == (robustness.RUN,)
    assert runs("ringloss", "robustness") == (robustness.RUN,)


def test_an_item_that_cannot_be_measured_is_said_and_the_others_are_there(tmp_path, monkeypatch):
    def refused(made):
        raise InputError("figure-5: expected a free folder, found one in use.")

    monkeypatch.setattr(propositions, "bound_curves", refused)
    options = ["--out", str(tmp_path), "--only", "figure-5", "proposition-1"]
    with pytest.raises(InputError, match=r"every item to succeed.*\nfigure-5: .*one in use"):
        command.main(["normface", *options])
    text = page_of(tmp_path / "normface/report.html")
    assert "expected a free folder, found one in use." in text
    assert (tmp_path / "normface/proposition-1/result.json").exists()


def test_results_are_read_back_whole(tmp_path):
    outcome = Outcome([Entry("a", (1.0, 2.0), "b", "%", 3)], "small", missing={"c": "no data"})
    write_result(tmp_path, {"seeds": 2}, outcome, {})
    assert read_result(tmp_path, {"seeds": 2}) == outcome
    assert read_result(tmp_path, {"seeds": 3}) is None
    assert read_result(tmp_path / "none") is None


def test_a_result_whose_pictures_were_not_all_written_is_none(tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    write_result(tmp_path, {}, Outcome([], "small"), {})
    figure = Figure()
    monkeypatch.setattr(figure, "savefig", killed)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, {}, Outcome([], "small"), {"a": figure})
    assert read_result(tmp_path, {}) is None


def test_two_do_not_train_in_one_folder_of_runs(tmp_path):
    has_dataset(tmp_path / "data", "faces")
    options = f"--only table-2 --runs {tmp_path} --out {tmp_path} --data-dir {tmp_path}/data"
    with (
        owned.locked(tmp_path, "being trained in"),
        pytest.raises(InputError, match="is being trained"),
    ):
        command.main(["normface", *options.split()])


def test_measured_figures_show_their_spread_over_seeds():
    assert page.shown_entry(Entry.of("", [98.0, 99.0], "%")) == "98.50 ± 0.707 %"
    assert page.shown_entry(Entry("", (98.5,), "", "%", 2, 0.25)) == "98.50 ± 0.250 %"
    assert page.shown_entry(Entry.of("", 0.00001234, "nats", 4)) == "1.2e-05 nats"
    assert (
        page.shown_entry(Entry("", (98.5,), unit="%", note="± 0.25 over folds"))
        == "98.50 % (± 0.25 over folds)"
    )
    for held, shown in (
        ([True, False, True], "undecided, 2 of 3 seeds"),
        (True, "yes"),
        (False, "no"),
        ([False, False], "no, 0 of 2 seeds"),
    ):
        assert judged(Entry.claim("", held)) == shown


def test_rows_that_no_paper_prints_are_not_said_to_be_not_run():
    (item,) = papers.items("ringloss", ("robustness",))
    outcome = Outcome([Entry.claim("it holds", True), Entry.of("a", 1, "%", column="b")], "")
    rows = [{"row": name, "values": ["yes"], "source": "1"} for name in ("it holds", "so does it")]
    verdicts = page.judge({item.name: outcome})
    (table,) = page.section(page.Shown(item, outcome, Path(), ""), {"rows": rows}, verdicts).tables
    assert table.header == ["", "published", "measured", "b", "source"]
    assert table.rows == [
        ["it holds", "yes", "yes", "", "1"],
        ["so does it", "yes", page.NOT_RUN, "", "1"],
        ["a", "", "", "1.00 %", ""],
    ]


def test_a_statement_that_fails_is_in_the_summary():
    (item,) = papers.items("normface", ("proposition-1",))
    outcome = Outcome([Entry.claim("it holds", False)], "")
    ours = Entry.claim("it holds for us", False)
    outcome.entries.append(ours)
    printed = {"proposition-1": {"rows": [{"row": "it holds", "values": ["yes"]}]}}
    verdicts = page.judge({item.name: outcome})
    text = page.summary([page.Shown(item, outcome, Path(), "")], printed, verdicts)
    assert text.splitlines() == [
        "Items: 1 measured as the paper has it, 0 at small scale or on other data, 0 drawn, "
        "0 not run.",
        "Statements: 0 of 1 hold here.",
        "Do not hold here:",
        "– Proposition 1 (3.1, 8.1): it holds (no)",
    ]


def with_test(tested):
    """An item whose one statement, "claim", has this test."""
    (item,) = papers.items("normface", ("table-2",))
    return item._replace(statements=lambda scores: {"claim": tested(scores)})


def test_what_is_published_stands_beside_what_the_printed_values_say():
    def row(name, *values, **more):
        return {"row": name, "values": values} | more

    rows = [row("a", "2.5", "-"), row("b", "2 ± 0.1", "4"), row("claim", "yes", "yes", unit=HOLDS)]
    printed = {"columns": ["x", "y"], "unit": "%", "rows": rows}
    item = with_test(lambda scores: scores.above("a", "b"))
    found = page._published(item, {one["row"]: one for one in rows}, printed)
    assert found["b", "x"] == "2 ± 0.1 %"
    assert found["a", "y"] == "-"
    assert found["claim", "x"] == "yes (+0.50)"
    assert found["claim", "y"] == "yes"


@pytest.mark.parametrize(
    ("above", "between", "shown"),
    [
        (["4.30", "4.24"], [0.2, 0.4], "yes (+0.24 to +0.30)"),
        (["4.30", "4.08"], [0.2, 0.4], "yes (+0.08 to +0.30: the printed values say otherwise)"),
        (["4.58"], [0.6, 0.6], "yes (+0.58)"),
        (["3.90", "4.10"], [0, np.inf], "yes (-0.10: the printed values say otherwise)"),
    ],
)
def test_printed_values_that_say_otherwise_are_pointed_out(above, between, shown):
    rows = [{"row": f"a{n}", "values": [value]} for n, value in enumerate(above)]
    names, (least, most) = [row["row"] for row in rows], between
    item = with_test(lambda scores: scores.above(names, "b", least=least, most=most))
    rows += [{"row": "b", "values": ["4.00"]}, {"row": "claim", "values": ["yes"], "unit": HOLDS}]
    found = page._published(item, {one["row"]: one for one in rows}, {"unit": "%", "rows": rows})
    assert found["claim", ""] == shown


def test_statements_that_their_printed_figures_contradict_are_known():
    found = set()
    for paper, items in papers.PAPERS.items():
        for item in items:
            printed = papers.published()[paper].get(item.name, {"rows": []})
            rows = {row["row"]: row for row in printed["rows"]}
            texts = page._published(item, rows, printed)
            found |= {(item.name, *key) for key, text in texts.items() if page.AGAINST in text}
    sphereface = "SphereFace + Ring loss beats SphereFace, at lambda 0.0001 to 0.01"
    assert found == {
        ("table-2", "LFW: every normalised loss adds 0.2 to 0.4 points to softmax + center", ""),
        ("table-5", "softmax, better on LFW than C-triplet + center, is better", ""),
        ("table-3", "l2-constrained softmax (10) is worse than softmax", "FAR 1e-3"),
        *(("table-3", sphereface, f"FAR 1e-{n}") for n in (4, 3)),
        *(("table-4", sphereface, f"FAR 1e-{n}") for n in (5, 4, 3)),
    }


@pytest.fixture
def evaluated(tmp_path):
    """A folder of runs in which one was evaluated."""
    folder = tmp_path / "runs"
    lfw = {"spreads": {"accuracy": 0.0003}}
    blufr = {"figures": {"VR at FAR 0.1 %, mean - deviation": 0.9577}, "spreads": {}}
    for name, protocols in (
        ("evaluation", {"lfw": lfw | {"figures": {"accuracy": 0.9912}}}),
        ("evaluation-no-mirror", {"lfw": lfw | {"figures": {"accuracy": 0.97}}}),
        ("evaluation-blufr", {"blufr": blufr}),
    ):
        path = folder / "wu-softmax" / name / "evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"protocols": protocols, "settings": {"run": ""}}))
    return folder


def read(paper, name, made):
    (item,) = papers.items(paper, (name,))
    return runs.read(item, papers.published()[paper][name], made)


def test_tables_read_the_evaluations_of_runs(evaluated, tmp_path):
    outcome = read("normface", "table-4", context(tmp_path, runs=evaluated))
    found = {entry.row: entry for entry in outcome.entries}
    assert found["softmax, not normalised"].values == pytest.approx((97.0,))
    assert page.shown_entry(found["softmax + mirror, not normalised"]) == "99.12 ± 0.030 %"
    assert len(found) == 2
    assert len(outcome.missing) == 3
    blufr = read("normface", "table-3", context(tmp_path, runs=evaluated))
    (entry,) = blufr.entries
    assert (entry.row, entry.column) == ("MaxOut, softmax, not normalised", "TPR at FAR 0.1 %")


def test_missing_rows_come_with_commands_and_their_start(tmp_path):
    printed = papers.published()["normface"]["table-4"]
    wanted = {"C-contrastive, normalised"}
    made = context(tmp_path, runs=tmp_path)
    assert list(map(str, commands.full_commands(printed, wanted, made))) == [
        f"hyperface train casia-lightcnn9-softmax --workdir {tmp_path}/wu-softmax",
        "hyperface train casia-lightcnn9-normface --loss.softmax.weight 0 "
        "--loss.c-contrastive.weight 1 "
        f"--init-from {tmp_path}/wu-softmax --workdir {tmp_path}/wu-c-contrastive",
        f"hyperface evaluate {tmp_path}/wu-c-contrastive --protocol lfw --preset plain "
        "--checkpoint 6000 7000 8000 9000 10000",
    ]
    wanted = {"softmax, not normalised"}
    assert str(commands.full_commands(printed, wanted, made)[-1]) == (
        f"hyperface evaluate {tmp_path}/wu-softmax --protocol lfw --preset plain "
        f"--mirror none --out {tmp_path}/wu-softmax/evaluation-no-mirror"
    )


def write_small_run(runs_folder, method, seed, accuracy):
    """What the commands leave of a run at small scale, as far as it is read."""
    run = commands.folder(runs_folder, method, seed)
    run.mkdir(parents=True)
    made = Context(runs_folder, runs_folder, runs=runs_folder)
    experiment = commands.training(method, made, seed)[-1].experiment()
    config = {
        "experiment": experiment.to_dict(),
        "data": {
            "dataset": f"{experiment.data.name}/1.0.0",
            "source": None,
            "examples": 9646,
            "classes": 541,
        },
    }
    rates = {"far": [0.0, 0.01, 1.0], "tar": [0.1, 0.5, 1.0]}
    shot = {
        "accuracy": accuracy,
        "tar_at_far_0.01": accuracy / 4,
        "tar_at_far_0.001": accuracy / 10,
    }
    own = {"experiment": "x", "snapshots": {"x": [shot, shot]}}
    share = {"mean": [0.01] * 100, "deviation": [0.001] * 100}
    lfw = {"figures": {"accuracy": accuracy}, "spreads": {"accuracy": 0.006}}
    lfw["spread"] = "standard error over folds"
    verified = {"VR at FAR 0.1 %": 0.22, "VR at FAR 0.1 %, mean - deviation": 0.2}
    scored = {
        "lfw": lfw,
        "blufr": {"figures": verified, "spreads": {}, "curves": {"blufr": rates}},
        "halves": {
            "figures": {"accuracy, mean": 0.8, "accuracy, histogram": 0.82},
            "spreads": {},
            "details": {"histograms": {"same": share, "different": share}},
        },
    }
    names = ["lfw", *(f"lfw-area{factor}" for factor in (4, 16, 25, 36, 64))]
    areas = {name: lfw | {"curves": {name: rates}} for name in names}
    profiles = {"figures": {"TAR at FAR 0.1 %": accuracy / 20}, "spreads": {}}
    profiles |= {"curves": {"pairs": rates}}
    for name, protocols in (
        ("evaluation", scored),
        ("evaluation-resolution", areas),
        ("evaluation-profiles", {"pairs": profiles}),
    ):
        (run / name).mkdir()
        asked = {"protocol": ",".join(scored)}
        settings = {"options": asked, "run": run_digest(run), "files": {}}
        record = {"protocols": protocols, "settings": settings}
        (run / name / "evaluation.json").write_text(json.dumps(record))
    (run / "config.json").write_text(json.dumps(config))
    (run / "results.json").write_text(json.dumps(own))


@pytest.fixture
def small_runs(tmp_path):
    """Two seeds of softmax and of normalised softmax, one of Ring loss."""
    folder = tmp_path / "runs"
    for seed, (softmax, normalized) in enumerate([(0.86, 0.87), (0.85, 0.845)]):
        write_small_run(folder, "faces-softmax-continued", seed, softmax)
        write_small_run(folder, "faces-normface", seed, normalized)
    write_small_run(folder, "faces-ring-0.01", 0, 0.88)
    return folder


def test_rows_at_small_scale_stand_beside_the_published_ones(small_runs, tmp_path):
    options = ["--runs", str(small_runs), "--out", str(tmp_path), "--data-dir", str(tmp_path)]
    command.main(["normface", *options, "--only", "table-2", "table-3", "figure-9"])
    text = page_of(tmp_path / "normface/report.html")
    assert "faces-normface: faces-normface: 9,646 images of 541 people, 400 steps\n" in text
    assert (
        "<td>softmax, normalised</td><td>99.16 ± 0.025 %</td><td>85.75 ± 1.768 %</td>"
        "<td>21.44 ± 0.442 %</td><td>faces-normface, 2 seeds</td>" in text
    )
    nothing = "<td>not run</td>" * 2
    assert f"<td>softmax, feature only</td><td>98.72 %</td>{nothing}" in text
    assert (
        "<td>normalisation beats no normalisation</td><td>yes (+0.88)</td>"
        "<td>undecided, 1 of 2 seeds, of one start, by 0.25 [-9.28, 9.78] points (finds 10.16)"
        "</td>" in text
    )
    assert "<td>20.00 ± 0.000 %</td>" in text  # Table 3's first column, of two.
    assert (
        "Table 2, small scale: LFW: normalisation beats no normalisation (undecided, 1 of 2" in text
    )
    assert text.count("alt='b: similarities of two videos, softmax") == 2
    assert text.count("alt='a: how the histogram of a pair of videos is computed") == 1


def test_the_page_is_written_from_results(small_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "KEPT", tmp_path / "measured.json")
    file = tmp_path / "README.md"
    file.write_text("# A\n<!-- measured: normface -->\nold\n<!-- end: normface -->\nB\n")
    options = ["--runs", str(small_runs), "--out", str(tmp_path), "--data-dir", str(tmp_path)]
    command.main(["normface", *options, "--only", "table-2", "--page", str(file)])
    text = file.read_text()
    assert text.startswith("# A\n<!-- measured: normface -->\n## Table 2: LFW, 6,000 pairs")
    assert text.endswith("|\n<!-- end: normface -->\nB\n")
    assert "\n\n`hyperface reproduce normface --only table-2 --seeds 2`\n\n" in text
    assert "\n|  | published | small scale: LFW | small scale: 60 people of CFP, all" in text
    assert "TAR at FAR 1 % | run |\n|---|---|---|---|---|\n" in text
    assert (
        "| softmax, normalised | 99.16 ± 0.025 % | 85.75 ± 1.768 % | 21.44 ± 0.442 % | fac" in text
    )
    assert "feature only" not in text  # Nothing was measured of it.
    kept = (tmp_path / "measured.json").read_text()
    assert str(tmp_path) not in kept
    old = Outcome([Entry.of("test accuracy, scale 1", 12.3)], "of an earlier day")
    write_result(tmp_path / "normface/scales", {}, old, {})
    command.main(["normface", *options, "--only", "figure-5", "--page", str(file)])
    assert (tmp_path / "measured.json").read_text() == kept  # Nothing that was not asked for.
    with pytest.raises(InputError, match=r"--page: expected <!-- measured: ringloss --> and"):
        command.main(["ringloss", *options, "--only", "table-1", "--page", str(file)])
    with pytest.raises(InputError, match=r"--page: expected neither --quick nor --steps"):
        command.main(["normface", "--quick", "--page", str(file)])


def test_a_run_that_is_not_what_its_folder_says_is_refused(small_runs, tmp_path):
    options = ["--runs", str(small_runs), "--out", str(tmp_path), "--data-dir", str(tmp_path)]
    path = small_runs / "faces-normface-seed1/config.json"
    config = json.loads(path.read_text())
    config["experiment"]["loss"]["softmax"]["normalize"] = "features"
    path.write_text(json.dumps(config))
    start = small_runs / "faces-softmax"
    start.mkdir()
    (start / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="expected every trained run to have the options") as said:
        command.main(["normface", *options, "--only", "proposition-2", "--no-train"])
    ours = [line for line in str(said.value).split("\n") if "normface-seed1:" in line]
    assert len(ours) == 1
    assert "loss.softmax.normalize was features, is now both" in ours[0]
    assert f"init_from was nothing, is now {start} as it is." in ours[0]
    assert not (tmp_path / "normface/report.html").exists()


def test_kept_values_are_one_line_per_entry():
    kept = results_page.read()
    text = results_page.KEPT.read_text()
    assert results_page.as_json(kept) == text
    assert json.loads(text) == kept
    assert text.count('"row"') == len([line for line in text.splitlines() if '"row"' in line])


def test_a_comparison_without_interval_is_kept_as_null(tmp_path):
    (lost,) = comparisons.per_seed("x", [np.inf, 1.0, 2.0])
    write_result(tmp_path, {}, Outcome([lost], "small"), {})
    assert "NaN" not in (tmp_path / "result.json").read_text()
    (again,) = read_result(tmp_path).entries
    np.testing.assert_equal(again.parts, lost.parts)


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_the_page_has_the_values_that_were_kept(paper, tmp_path):
    written = Path(command.__file__).parents[2] / f"docs/results/{paper}.md"
    copy = tmp_path / "page.md"
    shutil.copy(written, copy)
    results_page.write(paper, copy)
    assert copy.read_text() == written.read_text()


def test_figures_are_drawn_of_runs_at_small_scale(small_runs, tmp_path):
    options = ["--runs", str(small_runs), "--out", str(tmp_path), "--data-dir", str(tmp_path)]
    names = ["figure-6", "figure-7", "figure-8"]
    command.main(["ringloss", *options, "--only", *names])
    outcomes = [read_result(tmp_path / "ringloss" / name) for name in names]
    captions = [list(found.pictures) for found in outcomes]
    assert captions[0] == ["ROC: 60 people of CFP, frontal-profile pairs, small scale"]
    assert captions[1] == ["ROC: LFW, BLUFR pairs, small scale"]
    assert [caption.split(";")[0] for caption in captions[2]] == [
        "LFW, 6,000 pairs: ROC curves, one panel per factor by which images were made smaller",
        "LFW, 6,000 pairs: accuracy against the factor by which images were made smaller",
    ]
    profiles = {(e.row, e.column): e.values for e in outcomes[0].entries}
    column = "small scale: 60 people of CFP, TAR at FAR 0.1 %"
    assert profiles["SM", column] == pytest.approx((4.3, 4.25))
    found = {(e.row, e.column): page.shown_entry(e) for e in outcomes[2].entries}
    assert found["SM + R (0.01)", "area / 64"] == "88.00 % (± 0.60 over folds)"
    # Seeds are compared with themselves: of the second seed there is no run with Ring loss.
    assert found["SM + R (0.01) is above SM", "area / 4"] == "by 2.00 points"
    (judged_by,) = [e for e in outcomes[2].entries if e.row == "SM + R (0.01) is above SM" and
                    e.judged]  # fmt: skip
    assert judged(judged_by) == "undecided, by 2.00 points, the least certain of 5 parts"
    assert "64 times smaller, l2-Cons SM (30) is below SM" not in {row for row, _ in found}
    printed = papers.published()["ringloss"]["figure-8"]
    drawn = pictures._against(printed, small_runs, {"area / 64": 64.0}, whole=False)
    assert drawn["SM"][64.0] == pytest.approx((0.855, np.sqrt(0.5) * 0.01))


def write_whole_run(folder, method, evaluation, protocols):
    """What hyperface evaluate leaves of a run at the paper's scale, as far as it is read."""
    rates = {"far": [0.0, 0.001, 1.0], "tar": [0.2, 0.6, 1.0]}
    record = {
        name: {"spreads": {}, "spread": "over 5 snapshots", "curves": {name: rates}} | scored
        for name, scored in protocols.items()
    }
    path = folder / method / evaluation / "evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {"options": {}, "run": run_digest(folder / method)}
    path.write_text(json.dumps({"protocols": record, "settings": settings}))


def test_figures_are_drawn_of_runs_at_the_papers_scale(tmp_path):
    folder = tmp_path / "runs"
    tar = {"figures": {"TAR at FAR 0.1 %": 0.8, "TAR at FAR 0.001": 0.7}}
    write_whole_run(folder, "sm", "evaluation-cfp", {"cfp-fp": tar})
    write_whole_run(folder, "sm", "evaluation-ijba", {"ijba": tar})
    write_whole_run(folder, "sm-r-0.01", "evaluation-cs3", {"cs3": tar})
    areas = {f"cs3-area{factor}": tar for factor in (4, 16, 25, 36, 64)}
    write_whole_run(folder, "sm", "evaluation-cs3-resolution", {"cs3": tar, **areas})
    made = context(tmp_path, runs=folder)
    published = papers.published()["ringloss"]
    assert list(pictures.draw(published["figure-6"], made)) == ["ROC: CFP, frontal and profile"]
    assert list(pictures.draw(published["figure-7"], made)) == ["ROC: IJB-A, 1:1"]
    assert list(pictures.draw(published["figure-7-cs3"], made)) == ["ROC: Janus CS3, 1:1"]
    found = pictures.draw(published["figure-8"], made)
    assert [caption.split(" the factor")[0].split(",")[:2] for caption in found] == [
        ["Janus CS3", " 1:1: ROC curves"],
        ["Janus CS3", " 1:1: TAR at FAR 0.001 against"],
    ]
    panels = next(iter(found.values())).axes
    assert [axes.get_title() for axes in panels] == [f"area / {n}" for n in (1, 4, 16, 25, 36, 64)]
    outcome = read("ringloss", "figure-8", made)
    assert len(outcome.entries) == 6
    assert set(outcome.missing) == {"SM + R (0.01)", "l2-Cons SM (30)", "SM + CL"}
    (_, call) = commands.full_commands(published["figure-8"], {"SM + CL"}, made)
    assert str(call) == (
        f"hyperface evaluate {folder}/sm-cl --protocol cs3 --resolution 1 4 16 25 36 64 "
        f"--out {folder}/sm-cl/evaluation-cs3-resolution"
    )


def test_accuracy_is_drawn_against_weights_where_there_are_two(tmp_path):
    folder, printed = tmp_path / "runs", papers.published()["normface"]["figure-8"]
    made = context(tmp_path, runs=folder)
    for method, accuracy in (("wen-joint-0.1", 0.99), ("wen-center", 0.98), ("wen-joint-1", 0.97)):
        assert pictures.draw(printed, made) == {}
        scored = {"figures": {"accuracy": accuracy}, "spreads": {"accuracy": 0.001}}
        write_whole_run(folder, method, "evaluation", {"lfw": scored})
    (caption, drawn), *more = pictures.draw(printed, made).items()
    assert not more
    assert caption == "Accuracy against the loss' weight, mean and deviation over snapshots"
    (axes,) = drawn.axes
    (bars,) = axes.containers
    assert bars.has_yerr
    np.testing.assert_allclose(bars[0].get_xydata(), [[0.1, 0.99], [1.0, 0.97]])
    names = axes.get_legend_handles_labels()[1]
    assert set(names) == {"softmax + C-contrastive", "softmax + center, not normalised"}


def test_single_histograms_are_drawn_where_they_were_kept(tmp_path):
    folder, printed = tmp_path / "runs", papers.published()["normface"]["figure-9"]
    share = {"mean": [0.01] * 100, "deviation": [0.001] * 100}
    kept = share | {"single": [[0.01] * 100] * 3}
    scored = {"figures": {}, "details": {"histograms": {"same": kept, "different": kept}}}
    write_whole_run(folder, "wen-normalized", "evaluation-ytf", {"ytf": scored})
    found = pictures.draw(printed, context(tmp_path, runs=folder))
    (axes,) = found["b: similarities of two videos of YTF, softmax, normalised"].axes
    assert len(axes.lines) == 2 + 6
    assert not axes.collections
    assert axes.get_title() == "6 pairs of videos, and the mean over all"
    (axes,) = pictures._histograms({"same": share, "different": share}).axes
    assert (len(axes.lines), len(axes.collections)) == (2, 2)


def test_a_seed_that_diverged_is_said_and_is_below_all(small_runs, tmp_path):
    for name in ("faces-normface-seed2", "faces-feature-only"):
        (small_runs / name).mkdir()
        (small_runs / name / "diverged.json").write_text("{}")
    write_small_run(small_runs, "faces-softmax-continued", 2, 0.8)
    write_small_run(small_runs, "faces-feature-only", 1, 0.84)
    outcome = read("normface", "table-2", context(tmp_path, runs=small_runs))
    note = outcome.notes["softmax, normalised"]
    assert note == "faces-normface, 2 seeds, seed 2 diverged"
    shown = {(e.row, e.column): page.shown_entry(e) for e in outcome.entries}
    column = "small scale: LFW"
    assert shown["softmax, normalised", column] == "85.75 ± 1.768 %"
    found = {(e.row, e.column): e for e in outcome.entries}
    better = found["normalisation beats no normalisation", column]
    assert judged(better) == "undecided, 1 of 3 seeds, of one start, by 0.25 points"
    worse = found["feature-only normalisation is worse than both", column]
    assert judged(worse) == "undecided, 2 of 2 seeds, of one start, by 0.50 points"
    # The other column is not the one that the statement is judged by.
    other = found["normalisation beats no normalisation", printed_columns("table-2")[1]]
    assert not other.judged
    assert page.shown_entry(other) == "by 0.06 points"


def printed_columns(name):
    return commands.SmallScale.of(papers.published()["normface"][name]).columns


def test_a_list_of_pairs_is_compared_over_people_where_its_decisions_were_kept(tmp_path):
    """Three seeds that agree leave out that the people could have been others."""
    printed = {
        "rows": [
            {"row": "better", "values": [""], "small": "orl-normface"},
            {"row": "worse", "values": [""], "small": "orl-softmax"},
            {"row": "claim", "values": ["yes"], "unit": HOLDS},
        ],
        "small": {"columns": ["LFW"], "protocols": ["lfw"], "figures": ["accuracy"]},
    }
    item = with_test(lambda scores: scores.above("better", "worse"))
    made = context(tmp_path, runs=tmp_path)
    people = np.arange(40)
    first, second = np.tile(people, 2), np.concatenate([people, np.roll(people, 1)])
    names = [np.array([f"p{person}/1.jpg" for person in side]) for side in (first, second)]
    for method, share in (("orl-normface", 1.0), ("orl-softmax", 0.9)):
        for seed in range(3):
            right = np.tile(people < share * people.size, 2)
            run = commands.folder(tmp_path, method, seed)
            write_small_run(tmp_path, method, seed, share)
            scored = {"figures": {"accuracy": float(right.mean())}, "spreads": {}, "spread": ""}
            settings = {"options": {}, "run": run_digest(run)}
            record = {"protocols": {"lfw": scored}, "settings": settings}
            (run / "evaluation").mkdir(exist_ok=True)
            (run / "evaluation/evaluation.json").write_text(json.dumps(record))
            columns = {"same": first == second, "score": right.astype(float), "right": right}
            np.savez(run / "evaluation/pairs-lfw.npz", first=names[0], second=names[1], **columns)
    (found,) = [e for e in runs.read(item, printed, made).entries if e.row == "claim"]
    (difference,) = found.parts
    assert difference.value == pytest.approx(10.0)
    # 4 of 40 people: 4.7 points, and more for pairs of two people, who are both drawn.
    assert 4.7 < difference.error < 9.4
    # Without the decisions of one run, seeds that agree are all that is known.
    (tmp_path / "orl-softmax/evaluation/pairs-lfw.npz").unlink()
    (found,) = [e for e in runs.read(item, printed, made).entries if e.row == "claim"]
    assert np.isnan(found.parts[0].error)


def test_a_network_fails_if_it_verifies_like_a_guess_or_its_norms_explode(tmp_path):
    """Whatever its last loss is: a net with a high loss may verify well."""
    printed = {
        "rows": [
            {"row": "Ring", "values": [""], "small": "orl-ring-0.01"},
            {"row": "claim", "values": ["yes"], "unit": HOLDS},
        ],
        "small": {"columns": ["ORL"], "protocols": ["test"], "figures": ["accuracy"]},
    }
    item = with_test(lambda scores: scores.fails("Ring"))
    made = context(tmp_path, runs=tmp_path)

    def shown(*accuracies, norms=(2.0, 3.0)):
        for seed, accuracy in enumerate(accuracies):
            run = commands.folder(tmp_path, "orl-ring-0.01", seed)
            shutil.rmtree(run, ignore_errors=True)
            write_small_run(tmp_path, "orl-ring-0.01", seed, accuracy)
            lines = [
                {"step": n, "feature_norm": norm, "loss": 64.0} for n, norm in enumerate(norms)
            ]
            (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (found,) = [e for e in runs.read(item, printed, made).entries if e.row == "claim"]
        return judged(found).split(", by")[0]

    assert shown(0.76, 0.77, 0.75) == "no, 0 of 3 seeds"
    assert shown(0.501, 0.503, 0.499) == "yes, 3 of 3 seeds"
    assert shown(0.501, 0.503, 0.77) == "undecided, 2 of 3 seeds"
    # Three that explode are all of one sign, which chance does in one of eight.
    assert shown(0.76, 0.77, 0.75, norms=(2.0, 500.0)) == "undecided, 3 of 3 seeds"
    assert shown(*[0.76] * 7, norms=(2.0, 1e-3)) == "yes, 7 of 7 seeds"
    (tmp_path / "orl-ring-0.01/results.json").unlink()
    (tmp_path / "orl-ring-0.01/diverged.json").write_text("{}")
    (entry,) = [e for e in runs.read(item, printed, made).entries if e.row == "claim"]
    assert entry.values == (1.0,) * 7


def test_missing_runs_at_small_scale_are_made_once_seed_by_seed(tmp_path, monkeypatch):
    calls = []

    def run(call, *_):
        status = made_of(call)
        return SimpleNamespace(poll=lambda: status)

    def made_of(call):
        called, options = f"hyperface {call.program}", shlex.split(call.options)
        calls.append(f"{called} {call.options}")
        if "--loss.softmax.normalize" in options and "features" in options:
            return program.EXIT_DIVERGED
        if called == "hyperface train":
            start = options[options.index("--init-from") + 1] if "--init-from" in options else ""
            origin = f"{start} ({run_digest(Path(start))})"
            made = Path(options[options.index("--workdir") + 1]) / "results.json"
            made.parent.mkdir(parents=True, exist_ok=True)
            trained = commands.Command("train", call.options, made).experiment()
            data = {"dataset": "faces/1.0.0", "source": None}
            config = {"experiment": trained.to_dict(), "data": data, "init_from": origin}
            (made.parent / "config.json").write_text(json.dumps(config))
            (made.parent / "metrics.jsonl").write_text("{}\n")
            made.write_text("{}")
        else:
            made = Path(options[0]) / "evaluation/evaluation.json"
            made.parent.mkdir(exist_ok=True)
            asked = evaluate.recorded(tyro.cli(evaluate.Evaluate, args=options))
            settings = {"options": asked, "run": run_digest(Path(options[0])), "files": {}}
            made.write_text(json.dumps({"settings": settings}))
        return 0

    monkeypatch.setattr(scheduler, "_start", run)
    for name in ("faces", "lfw"):
        has_dataset(tmp_path / "data", name)
    for name in ("lfw/pairs.txt", "blufr_lfw_config.mat", "cfp_protocol.zip"):
        has_protocol_file(tmp_path / "data", name)
    rows = papers.published()["normface"]["table-2"]["rows"]
    printed = {
        "rows": [
            row for row in rows if row["row"] in ("softmax, feature only", "softmax, normalised")
        ]
    }
    printed |= {"protocols": ["lfw"], "figures": ["accuracy"]}
    runs_folder = tmp_path / "runs"
    made = context(tmp_path, runs=runs_folder, seeds=2, steps=100)
    table_2 = papers.items("normface", ("table-2",))

    def make(printed, context):
        scheduler.run_all(commands.item_commands(table_2, {"table-2": printed}, context), context)

    make(printed, made)
    short = "--steps 100 --evaluation.snapshots 1"
    tune = f"{short} --init-from {runs_folder}/faces-softmax --workdir {runs_folder}"
    seed1 = tune.replace("--init", "--seed 1 --init")
    score = "--protocol lfw,blufr,halves"
    assert calls == [
        f"hyperface train faces-softmax {short} --workdir {runs_folder}/faces-softmax",
        "hyperface train faces-normface --loss.softmax.normalize features "
        f"{tune}/faces-feature-only",
        f"hyperface train faces-normface {tune}/faces-normface",
        f"hyperface evaluate {runs_folder}/faces-normface {score}",
        "hyperface train faces-normface --loss.softmax.normalize features "
        f"{seed1}/faces-feature-only-seed1",
        f"hyperface train faces-normface {seed1}/faces-normface-seed1",
        f"hyperface evaluate {runs_folder}/faces-normface-seed1 {score}",
    ]
    assert commands.seeds(runs_folder, "faces-normface") == [0, 1]
    calls.clear()
    make(printed, made)
    assert len(calls) == 2  # Those that diverged are tried again.
    calls.clear()
    scoring = papers.published()["small"]["evaluation"]
    monkeypatch.setitem(scoring, "options", "--protocol lfw,cfp-ff")
    make(printed, made)
    assert len([call for call in calls if "hyperface evaluate" in call]) == 2
    calls.clear()
    (runs_folder / "faces-normface-seed1/metrics.jsonl").write_text("trained anew\n")
    make(printed, made)
    scored = f"hyperface evaluate {runs_folder}/faces-normface-seed1 --protocol lfw,cfp-ff"
    assert [call for call in calls if "softmax.normalize" not in call] == [scored]
    calls.clear()
    monkeypatch.setitem(scoring, "options", "--protocol lfw,cfp-ff --preset plain")
    make(printed, made)
    assert len([call for call in calls if "--preset plain" in call]) == 2
    calls.clear()
    longer = context(tmp_path, runs=runs_folder, steps=200)
    make(printed, longer)
    assert "hyperface train faces-softmax --steps 200" in calls[0]


def test_an_evaluation_needs_its_data_and_its_protocol_file(tmp_path):
    made = context(tmp_path, runs=tmp_path / "runs")
    for name in ("faces", "lfw"):
        has_dataset(tmp_path / "data", name)
    printed = papers.published()["ringloss"]["table-2"]

    def evaluations():
        calls = commands.small_commands(printed, made)
        return {c.makes.parent.name for c in calls if c.program == "evaluate"}

    assert evaluations() == {"evaluation"}
    has_protocol_file(tmp_path / "data", "frontal_profile.csv")
    assert evaluations() == {"evaluation", "evaluation-profiles"}
    shutil.rmtree(tmp_path / "data/lfw")
    assert evaluations() == {"evaluation-profiles"}


def test_protocols_without_their_files_are_left_out_of_an_evaluation(tmp_path):
    made = context(tmp_path, runs=tmp_path)
    data = tmp_path / "data"
    pairs, trials = data / "protocols/lfw/pairs.txt", data / "protocols/blufr_lfw_config.mat"
    options, absent = commands.small_options("evaluation", made)
    assert (options, absent) == ("--protocol halves", [str(pairs), str(trials)])
    has_protocol_file(data, "lfw/pairs.txt")
    assert commands.small_options("evaluation", made) == ("--protocol lfw,halves", [str(trials)])
    options, absent = commands.small_options("evaluation-profiles", made)
    assert (options, absent) == ("", [str(data / "protocols/frontal_profile.csv")])


def test_a_run_from_another_start_is_not_done(tmp_path):
    made = context(tmp_path, runs=tmp_path / "my runs")
    (call,) = commands.training("faces-normface", made)[1:]
    call.makes.parent.mkdir(parents=True)
    call.start.mkdir()
    (call.start / "metrics.jsonl").write_text("{}\n")
    origin = f"{call.start} ({run_digest(call.start)})"
    config = {"experiment": call.experiment().to_dict(), "init_from": origin, "data": {}}
    (call.makes.parent / "config.json").write_text(json.dumps(config))
    assert not call.is_done(tmp_path)
    call.makes.write_text("{}")
    assert call.is_done(tmp_path)
    (call.start / "metrics.jsonl").write_text("trained anew\n")
    assert not call.is_done(tmp_path)


def test_what_was_trained_beside_a_run_does_not_make_it_another(tmp_path):
    """As `hyperface train` leaves it, which trains orl-softmax and orl-ring too."""
    write_small_run(tmp_path, "orl-normface", 0, 0.8)
    path = tmp_path / "orl-normface/config.json"
    config = json.loads(path.read_text())
    config["experiment"]["compare"] = ["orl-softmax", "orl-ring"]
    path.write_text(json.dumps(config))
    (call,) = commands.training("orl-normface", context(tmp_path, runs=tmp_path))
    assert call.is_done(tmp_path / "data")


def test_a_run_on_data_that_was_prepared_anew_is_not_done_and_refused(tmp_path):
    data = tmp_path / "data"
    has_dataset(data, "faces")
    write_small_run(tmp_path, "faces-softmax", 0, 0.8)
    (call,) = commands.training("faces-softmax", context(tmp_path, runs=tmp_path))
    assert call.is_done(data)
    (data / "faces/1.0.0").rename(data / "faces/1.0.1")
    assert not call.is_done(data)
    found = "data.dataset was faces/1.0.0, is now faces/1.0.1"
    with pytest.raises(InputError, match=f"have the options and the data.*\n.*{found}"):
        command.main(
            [
                *("normface", "--only", "table-2", "--data-dir", str(data)),
                *("--runs", str(tmp_path), "--out", str(tmp_path)),
            ]
        )


def test_scores_by_a_protocol_file_that_changed_are_not_done(tmp_path):
    write_small_run(tmp_path, "faces-normface", 0, 0.8)
    lists = tmp_path / "data/protocols/lfw/pairs.txt"
    lists.parent.mkdir(parents=True)
    lists.write_text("one")
    run = tmp_path / "faces-normface"
    call = commands.scoring(run, "--protocol lfw", "evaluation")
    asked = evaluate.recorded(tyro.cli(evaluate.Evaluate, args=shlex.split(call.options)))
    settings = {"options": asked, "run": run_digest(run), "files": {"lfw/pairs.txt": digest(lists)}}
    call.makes.write_text(json.dumps({"settings": settings}))
    assert call.is_done(tmp_path / "data")
    lists.write_text("other")
    assert not call.is_done(tmp_path / "data")


def test_commands_that_fail_are_listed_after_the_report(tmp_path, monkeypatch):
    calls = []
    failed = SimpleNamespace(poll=lambda: 2)
    monkeypatch.setattr(scheduler, "_start", lambda command, *_: calls.append(command) or failed)
    for name in ("faces", "lfw"):
        has_dataset(tmp_path / "data", name)
    write_small_run(tmp_path, "faces-softmax", 0, 0.8)
    (start,) = commands.training("faces-softmax", context(tmp_path, runs=tmp_path))
    config = json.loads((tmp_path / "faces-softmax/config.json").read_text())
    config["experiment"] = start.experiment().to_dict()
    (tmp_path / "faces-softmax/config.json").write_text(json.dumps(config))
    options = ["--runs", str(tmp_path), "--out", str(tmp_path), "--only", "table-5"]
    options += ["--data-dir", str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"faces-normface .* ended with status 2\."):
        command.main(["normface", *options])
    assert len(calls) == 5  # Those after one that failed are run too.
    assert (tmp_path / "normface/report.html").exists()


def test_a_run_from_another_released_file_is_not_done(tmp_path):
    made = context(tmp_path, runs=tmp_path / "runs")
    (call,) = commands.training("mobilefacenet-softmax", made)
    call.start.parent.mkdir(parents=True)
    call.start.write_bytes(b"one")
    call.makes.parent.mkdir(parents=True)
    call.makes.write_text("{}")
    config = {"experiment": call.experiment().to_dict(), "data": {}}
    config["init_from"] = f"{call.start} ({digest(call.start)})"
    (call.makes.parent / "config.json").write_text(json.dumps(config))
    assert call.is_done(made.data_dir)
    call.start.write_bytes(b"two")
    assert not call.is_done(made.data_dir)


def test_a_method_may_start_from_a_released_network(tmp_path, monkeypatch):
    made, started = context(tmp_path, runs=tmp_path), []
    has_dataset(tmp_path / "data", "faces112")
    assert commands.small_training("mobilefacenet-normface", made) == []
    (item,) = papers.items("normface", ("released-network",))
    lacks = "\n".join(command._absent(item, "normface", made))
    assert f"network 'mobilefacenet' is not at {tmp_path}/data/weights/fr_feature.onnx" in lacks
    file = tmp_path / "data/weights/fr_feature.onnx"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    (call,) = commands.small_training("mobilefacenet-normface", made)
    assert f"--init-from {file}" in call.options
    diverged = SimpleNamespace(poll=lambda: program.EXIT_DIVERGED)
    monkeypatch.setattr(scheduler, "_start", lambda *a: started.append(a[0]) or diverged)
    assert scheduler.run_all([call], made) == []
    assert started == [call]


def test_side_by_side_each_waits_for_what_it_starts_from(tmp_path, monkeypatch):
    under_way, most, order = set(), [], []

    def start(command, place, context):
        under_way.add(command)
        most.append(len(under_way))
        order.append(command.options)
        looks = iter(range(3))

        def poll():
            if next(looks, None) is not None:
                return None
            under_way.discard(command)
            command.makes.parent.mkdir(exist_ok=True)
            command.makes.write_text("{}")
            return 0

        return SimpleNamespace(poll=poll)

    def train(name, start=None):
        return commands.Command("train", name, tmp_path / name / "results.json", start)

    monkeypatch.setattr(scheduler, "_start", start)
    monkeypatch.setattr(scheduler, "_prepare", lambda *_: None)
    monkeypatch.setattr(scheduler, "POLL", 0.0)
    monkeypatch.setattr(commands.Command, "is_done", lambda self, _: self.makes.exists())
    tuned = train("tuned", tmp_path / "base")
    scored = commands.Command(
        "evaluate", "scored", tmp_path / "tuned/scores.json", tmp_path / "tuned"
    )
    calls = [train("base"), tuned, scored, train("alone"), train("other")]
    made = context(tmp_path, runs=tmp_path, jobs=2)
    assert scheduler.run_all(calls, made) == []
    assert max(most) == 2
    # Nothing else can begin beside the first one but "alone"; "other" is after what waited.
    assert order == ["base", "alone", "tuned", "other", "scored"]
    assert scheduler.run_all(calls, made) == []
    assert len(order) == 5


def test_side_by_side_each_has_a_log_and_cores_of_its_own(tmp_path, monkeypatch):
    child = (
        "import os, pathlib, sys, time\n"
        "time.sleep(0.5)\n"
        "print(sorted(os.sched_getaffinity(0)), os.getpgid(0) == os.getpid())\n"
        "print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])\n"
        "pathlib.Path(sys.argv[1]).write_text('{}')\n"
    )
    monkeypatch.setattr(scheduler, "_prepare", lambda *_: None)
    monkeypatch.setattr(
        scheduler, "_arguments", lambda c, _: [sys.executable, "-c", child, str(c.makes)]
    )
    monkeypatch.setattr(commands.Command, "is_done", lambda self, _: self.makes.exists())
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    calls = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        calls.append(commands.Command("train", name, tmp_path / name / "results.json"))
    assert scheduler.run_all(calls, context(tmp_path, runs=tmp_path, jobs=2)) == []
    logs = [(tmp_path / f"logs/{name}.txt").read_text() for name in ("one", "other")]
    cores = sorted(os.sched_getaffinity(0))
    expected = [cores[place % len(cores) :: 2] for place in range(2)]
    assert logs == [f"{share} True\n0.450\n" for share in expected]


def test_what_starts_from_a_failed_run_is_left_out_though_an_old_one_is_there(
    tmp_path, monkeypatch
):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/results.json").write_text("{}")
    started = []
    monkeypatch.setattr(scheduler, "_prepare", lambda *_: None)
    failed = SimpleNamespace(poll=lambda: 2)
    monkeypatch.setattr(scheduler, "_start", lambda command, *_: started.append(command) or failed)
    monkeypatch.setattr(commands.Command, "is_done", lambda *_: False)
    base = commands.Command("train", "base", tmp_path / "base/results.json")
    tuned = commands.Command("train", "tuned", tmp_path / "tuned/results.json", tmp_path / "base")
    scored = commands.Command("evaluate", "x", tmp_path / "tuned/x.json", tmp_path / "tuned")
    found = scheduler.run_all([base, tuned, scored], context(tmp_path, runs=tmp_path))
    assert started == [base]
    assert found == ["hyperface train base ended with status 2."]


@pytest.mark.parametrize(
    ("told", "kill"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGINT, os.kill)],
)
def test_the_command_under_way_ends_by_itself_when_told(tmp_path, told, kill):
    """What a scheduler sends, to the first process or to its group, and what a terminal sends."""
    child = (
        "import pathlib, sys, time\n"
        "from hyperface.train.interrupt import listening\n"
        "with listening() as request:\n"
        "    pathlib.Path(sys.argv[1], 'started').touch()\n"
        "    while not request.signal:\n"
        "        time.sleep(0.05)\n"
        "    time.sleep(0.5)\n"
        "    pathlib.Path(sys.argv[1], 'saved').touch()\n"
    )
    parent = (
        "import pathlib, sys\nfrom hyperface.reproduce import item, commands, scheduler\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "scheduler._arguments = lambda *_: [sys.executable, '-c', *sys.argv[1:]]\n"
        "command = commands.Command('train', 'faces-softmax', folder / 'run/results.json')\n"
        "try:\n"
        "    scheduler.run_all([command], item.Context(folder, folder))\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    command = [sys.executable, "-c", parent, child, str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    # Two interpreters import the library first, which takes long where many tests share the cores.
    deadline = time.monotonic() + 300
    try:
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill(process.pid, told)
        assert process.wait(120) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"unknown paper 'normfaces'.*'normface'"):
        command.main(["normfaces"])
    with pytest.raises(InputError, match=r"unknown item of ringloss 'figure-55'.*'figure-5'"):
        command.main(["ringloss", "--only", "figure-55"])
    with pytest.raises(InputError, match=r"--seeds: expected at least 1, found 0"):
        command.main(["ringloss", "--seeds", "0"])


def made_up(experiment, label, context):
    """A run nobody trained: a class a direction, Ring loss at one norm, else norms by class."""
    turn = 2 * np.pi * np.arange(10) / 10
    agents = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    labels = np.tile(np.arange(10), 20)
    norms = np.full(200, 2.0) if label == "ring" else 1.0 + labels
    # The digit 8 is wide where its norms are low.
    wide = np.where(labels == 8, np.linspace(1.0, 0.0, 200) * (-1.0) ** np.arange(200), 0.0)
    norms = norms + np.where(labels == 8, np.linspace(0.0, 0.1, 200), 0.0)
    angles = turn[labels] + 0.3 * wide * (1 if label != "ring" else 0)
    features = norms[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    bias = np.where(np.arange(10) == 3, 0.5, 0.0) if "bias" in label else None
    loss = {"no-scale": 1.4, "learned": 0.3}.get(label.removeprefix("convergence-"), 0.5)
    line = {"softmax": loss, "softmax_bound": 1.3769 if loss == 1.4 else 0.1, "scale": 1.0}
    metrics = [{"step": step, "distortion": 0.4 + experiment.seed, **line} for step in (1, 2)]
    both = {"train": features, "test": features}
    return digits.Trained(metrics, agents, bias, both, dict.fromkeys(both, labels))


@pytest.mark.parametrize(
    ("paper", "name"),
    [
        (paper, item.name)
        for paper, items in papers.PAPERS.items()
        for item in items
        if item.measure.startswith("digits_")
    ],
)
def test_mnist_items_measure_runs(paper, name, tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "_run", made_up)
    (item,) = papers.items(paper, (name,))
    outcome, figures = papers.measurement(item)(context(tmp_path, quick=True, seeds=2))
    assert ("figure" in item.gives) == bool(figures)
    assert "60 of 2,000 steps of 128 images, 2 seeds" in outcome.scale
    of_seeds = [entry for entry in outcome.entries if entry.unit != "% of seeds"]
    assert {len(entry.values) for entry in of_seeds} == {2}
    found = {entry.row: entry.values[0] for entry in outcome.entries if not entry.column}
    expected = {
        "figure-1": {
            "test accuracy, softmax + Ring loss": 100,
            "Ring loss makes norms alike": 1,
            "Ring loss raises the test accuracy": 0,  # Both have every digit right.
            # The norm of 3 is 4, where the mean is 5.5.
            "softmax, 2 dimensions: norms of 3, 6 and 8 above the mean": 0,
            "softmax, 5 dimensions: norms of 1, 7 and 9 below the mean": 0,
            "softmax, 2 dimensions: digit 1 has the lowest norm": 0,
        },
        "figure-2": {"test accuracy, cosine": 100},
        "figure-3": {"test accuracy, no bias, as trained": 100},
        "figure-4": {
            "test: low norms vary more in angle": 1,
            "features vary more in angle on test images": 0,  # Both are the same images.
        },
        "figure-5": {
            "Ring loss reduces the variance of class norms": 1,
            "classes whose accuracy Ring loss raises": 0,
            "Ring loss raises the accuracy of all classes": 0,
        },
        "convergence": {
            "no scale: loss at the end": 1.4,
            "without a scale the loss is stuck just above the bound": 1,
            "a learned scale goes below it": 1,
            "softmax, not normalised: greatest |logit|": 10,
        },
        "scales": {f"test accuracy, scale {scale}": 100 for scale in digits_normface.SCALES},
        "proposition-3-training": {"mean squared distance to the own agent, end of training": 0.4},
        "table-1": {"Euclidean: normalisation helps on MNIST": 1},
    }[name]
    for row, value in expected.items():
        assert found[row] == pytest.approx(value), row
    for row in papers.published()[paper].get(name, {"rows": []})["rows"]:
        known = row["row"] in outcome.missing or row["row"] in {e.row for e in outcome.entries}
        assert known, row["row"]


def test_statements_about_digits_hold_where_they_are_made_to(tmp_path, monkeypatch):
    """Softmax with norms as the paper has them and one error a class, which Ring loss has not."""
    lengths = np.array([10, 5, 10, 14, 10, 10, 14, 7, 14, 7]) / 10

    def run(experiment, label, context):
        made = made_up(experiment, label, context)
        features = made.agents[made.labels["test"]]
        if label == "softmax":
            features = lengths[made.labels["test"]][:, None] * features
        wrong = features.copy()
        if label == "softmax":
            wrong[:10] = np.roll(features[:10], 1, axis=0)
        return made._replace(features={"train": features, "test": wrong})

    monkeypatch.setattr(digits, "_run", run)
    for name, rows in (
        ("figure-1", papers.published()["ringloss"]["figure-1"]["rows"]),
        ("figure-5", papers.published()["ringloss"]["figure-5"]["rows"]),
        ("figure-4", [{"row": "features vary more in angle on test images", "unit": HOLDS}]),
    ):
        (item,) = papers.items("ringloss", (name,))
        outcome, _ = papers.measurement(item)(context(tmp_path, quick=True))
        found = {entry.row: entry.values for entry in outcome.entries}
        for row in rows:
            assert row.get("unit") != HOLDS or found[row["row"]] == (1.0,), row


def test_features_of_another_run_are_not_taken(tiny_mnist, tmp_path, monkeypatch):
    made = context(tmp_path, quick=True)
    made = dataclasses.replace(made, data_dir=tiny_mnist)
    chosen = digits.experiment("mnist-plane-ring", made)
    folder = tmp_path / "runs/ring-60-steps-1000-images-seed0"
    owned.adopt(folder, owned.RUN)
    split = open_split("mnist", "train", tiny_mnist)
    (folder / "config.json").write_text(json.dumps(run_meta(chosen, split)))
    kept = {"train": np.ones((10, 2)), "train_labels": np.arange(10), "agents": np.ones((10, 2))}
    kept |= {"test": np.ones((10, 2)), "test_labels": np.arange(10)}
    np.savez(folder / f"features-{code_digest(OF_FEATURES)}.npz", **kept)
    monkeypatch.setattr(digits, "train", None)
    assert len(digits.train_runs(chosen, "ring", made)) == 1
    heavier = dataclasses.replace(chosen.loss, ring=dataclasses.replace(chosen.loss.ring, weight=1))
    with pytest.raises(InputError, match="holds another run"):
        digits.train_runs(dataclasses.replace(chosen, loss=heavier), "ring", made)


def test_norm_ratios_are_of_class_means():
    run = made_up(experiments.load("mnist-plane-softmax"), "softmax", None)
    expected = (1.0 + np.arange(10)) / 5.5
    np.testing.assert_allclose(run.class_norms(), expected, rtol=0.01)


def test_experiments_are_shortened_without_their_schedule(tmp_path):
    whole = digits.experiment("mnist-plane-ring", context(tmp_path))
    assert (whole.steps, whole.compare, whole.optimizer.boundaries) == (2000, (), (1200, 1700))
    quick = digits.experiment("mnist-plane-softmax", context(tmp_path, quick=True), bias=True)
    assert (quick.steps, quick.optimizer.boundaries, quick.loss.softmax.bias) == (60, (), True)
    assert check(quick)


@pytest.fixture(scope="module")
def tiny_mnist(tmp_path_factory):
    """A data folder whose `mnist` has forty digits of noise in each split."""
    from hyperface.data import store
    from hyperface.data.planning import Options
    from hyperface.data.sources import digits as source

    folder, data_dir = tmp_path_factory.mktemp("idx"), tmp_path_factory.mktemp("mnist")
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = np.tile(np.arange(10, dtype=np.uint8), 16 if part == "train" else 4)
        images = rng.integers(0, 255, (labels.size, 28, 28), np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    store.prepare(source.digits(folder), data_dir / "mnist", Options())
    return data_dir


@pytest.mark.slow
def test_mnist_items_train_once_and_say_at_which_scale(tiny_mnist, tmp_path, monkeypatch):
    options = ["--data-dir", str(tiny_mnist), "--out", str(tmp_path), "--quick", "--steps", "2"]
    command.main(["ringloss", *options, "--only", "figure-1"])
    outcome = read_result(tmp_path / "ringloss/figure-1")
    found = {entry.row: entry for entry in outcome.entries}
    assert 0 <= found["test accuracy, softmax"].values[0] <= 100
    assert "lenet-plane: 2 of 2,000 steps of 128 images, 1 seed" in outcome.scale
    text = page_of(tmp_path / "ringloss/report.html")
    assert "<td>98.97 %</td>" in text
    assert "2 of 2,000 steps" in text
    monkeypatch.setattr(digits, "train", None)  # What follows uses the same two runs.
    command.main(["ringloss", *options, "--only", "figure-5", "figure-4"])
    command.main(["normface", *options, "--only", "figure-2", "table-1"])
    entries = read_result(tmp_path / "ringloss/figure-5").entries
    ratios = [e.values[0] for e in entries if e.column == "norm ratio" and "Ring" not in e.row]
    assert np.mean(ratios) == pytest.approx(1, abs=1e-4)  # As many images of each class.


def test_the_marked_features_are_those_of_the_caption():
    run = made_up(experiments.load("mnist-softmax"), "softmax", None)
    assert digits_planes.marked(run) == {}  # Every class has one norm: none is far.
    lengths = np.linspace(0.2, 2.0, 200)
    features = lengths[:, None] * run.features["train"]
    one, two, three = digits_planes.marked(run._replace(features={"train": features})).values()
    nearest = [np.argmax(feature @ run.agents.T) for feature in (one, two, three)]
    assert nearest[0] != nearest[1] == nearest[2]
    assert np.linalg.norm(one - two) < np.linalg.norm(two - three)


def test_a_cluster_at_the_origin_is_spread_by_normalisation(tmp_path, monkeypatch):
    """One class lies about the origin, and is told by its bias alone."""

    def run(experiment, label, context):
        made = made_up(experiment, "ring", context)
        labels, features = made.labels["train"], made.features["train"].copy()
        turn = np.linspace(0, 2 * np.pi, np.sum(labels == 3), endpoint=False)
        features[labels == 3] = 0.05 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        agents, bias = made.agents.copy(), None
        if "bias" in label:
            agents[3], bias = 1e-3 * agents[3], np.where(np.arange(10) == 3, 1.0, 0.0)
        both = {"train": features, "test": features}
        return made._replace(features=both, agents=agents, bias=bias)

    monkeypatch.setattr(digits, "_run", run)
    (item,) = papers.items("normface", ("figure-3",))
    outcome, figures = papers.measurement(item)(context(tmp_path, quick=True, seeds=2))
    found = {entry.row: entry for entry in outcome.entries}
    printed = papers.published()["normface"]["figure-3"]["rows"]
    assert [found[row["row"]].values for row in printed[:3]] == [(1.0, 1.0)] * 3
    spread = found["with a bias, spread over the circle: class nearest the origin"]
    assert spread.values[0] == pytest.approx(104, abs=10)
    assert len(figures) == 2


def test_the_probability_is_softmax_without_overflow():
    features, agents = np.array([[1000.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    found = softmax_probability(features, agents)
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.5, 0.5]])
