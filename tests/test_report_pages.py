"""Pages of reports: what they link to, what they leave out, and that texts are no markup."""

import base64
import hashlib
import html
import io
import os
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from hyperface import owned
from hyperface.protocols.result import HardPair
from hyperface.report import page_style, training_figures
from hyperface.report.canvas import DPI, TYPE, WIDTH, panels, write_picture
from hyperface.report.drafts import Draft, Drawn, save_drafts
from hyperface.report.hard_pairs import SHOWN, hardest_section
from hyperface.report.html import FacePair, Link, Page, Section, write_page
from hyperface.report.related import evaluation_links, link_from_run, run_links
from hyperface.report.sweep import write_sweep_report
from hyperface.report.swept import SweptRun
from hyperface.report.tables import Table
from hyperface.report.verification import ShownPair, write_verification
from hyperface.runs import program

BAD = "<script>alert('\"&')</script>"
FACE = np.zeros((8, 6, 3), np.uint8)


def table(title="Scores", **more):
    return Table(title, ("method", "accuracy"), [("a", "90 %"), ("b", "91 %")], **more)


def written(folder, *sections, **more):
    write_page(folder / "page.html", Page("Title", "Summary", sections, **more))
    return (folder / "page.html").read_text()


def broken_links(path):
    """Links of a page to a section or a file that is not there, or that a moved folder loses."""
    text = path.read_text()
    for target in map(html.unescape, re.findall(r"href='([^']*)'", text)):
        if target.startswith("#"):
            resolved = text.count(f"id='{target[1:]}'") == 1
        else:
            resolved = (
                not target.startswith(("/", "http", "file"))
                and (path.parent / unquote(target)).exists()
            )
        if not resolved:
            yield target


def tags_of(text):
    """The attributes of each tag, as a browser reads them."""
    found = {}
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.setdefault(tag, set()).update(
        name for name, _ in attributes
    )
    parser.feed(text)
    return found


def test_texts_are_no_markup(tmp_path):
    """A photo called <script> is shown, not run; a quote in a name does not end an attribute."""
    write_picture(tmp_path / "f.png", panels()[0])
    target = tmp_path / "a'#%?<b>.json"
    target.write_text("{}")
    section = Section(
        BAD,
        [Table(BAD + "!", (BAD, "a"), [(BAD, "1")], BAD, links=[target], sortable=True)],
        pictures={BAD: tmp_path / "f.png"},
        pairs={BAD: [FacePair((FACE, FACE), (BAD,))]},
        folded={BAD: BAD},
    )
    links = [Link(BAD, target)]
    page = Page(BAD, BAD, [section] * 4, command=shlex.join(["hyperface", BAD]), links=links)
    write_page(tmp_path / "page.html", page)
    text = (tmp_path / "page.html").read_text()
    assert re.findall(r"<script.*?>", text) == ["<script>"]
    assert text.partition("<script>")[2].startswith(page_style.SCRIPT)
    assert not list(broken_links(tmp_path / "page.html"))
    assert tags_of(text)["img"] == {"alt", "src", "width", "height"}
    assert tags_of(text)["a"] == {"href"}


def test_a_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    write_picture(tmp_path / "f.png", panels()[0])
    text = written(tmp_path, Section("A", [table(sortable=True)], {"caption": tmp_path / "f.png"}))
    assert set(re.findall(r"(?:src|url)\W+(\w+:)", text)) == {"data:"}
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy\' content="(.*?)"', text)[1]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "<script" not in written(tmp_path, Section("A", [table()]))


@pytest.mark.parametrize(("count", "has_contents"), [(3, False), (4, True)])
def test_many_sections_have_a_table_of_contents(tmp_path, count, has_contents):
    sections = [Section(f"Part {n}", [table()]) for n in range(count)]
    text = written(tmp_path, *sections)
    assert ("Contents</summary>" in text) == has_contents
    targets = re.findall(r"<li><a href='#(\d+)'>(.*?)</a>", text)
    heads = re.findall(r"<h2 id='(\d+)'>(.*?)</h2>", text)
    assert targets == (heads if has_contents else [])
    assert len(heads) == count


def test_a_section_without_content_is_left_out(tmp_path):
    empty = [
        Section("Nothing"),
        Section("No rows", [Table("No rows", ("a",), [])]),
        Section("No pairs", pairs={"kind": []}),
    ]
    text = written(
        tmp_path, *empty, Section("Only a reason", [Table("Only a reason", (), [], "why")])
    )
    assert re.findall(r"<h2.*?>(.*?)</h2>", text) == ["Only a reason"]
    assert "<table" not in text
    assert "why" in text


def test_the_command_stands_on_top_and_only_if_there_is_one(tmp_path):
    command = "hyperface train 'my run' --steps 8"
    text = written(tmp_path, command=command)
    top = re.search(r"</h1><pre class='command'>(.*?)</pre>", text)[1]
    assert html.unescape(re.sub(r"<.*?>", "", top)) == command
    assert "class='command'>" not in written(tmp_path)


def test_the_command_line_is_that_of_the_process(monkeypatch):
    seen = []
    assert program.command_line() == ""
    token = program._COMMAND.set("")
    program.run(lambda args: seen.append(program.command_line()), ["a b", "--x"], name="train")
    program._COMMAND.reset(token)
    assert seen == ["hyperface train 'a b' --x"]


# ---------------------------------------------------------------------------------------- figures


def test_figures_have_one_size_and_one_type(tmp_path):
    figure, (axes,) = panels()
    axes.set(title="title", xscale="log", xlim=(1, 1000))
    axes.annotate("mark", (10, 0.5), fontsize=30)
    axes.plot([1, 1000], [0, 1], label="line")
    axes.legend(fontsize=4)
    write_picture(tmp_path / "f.png", figure)
    assert {text.get_fontsize() for text in axes.texts + axes.get_legend().get_texts()} == {TYPE}
    assert {text.get_fontsize() for text in axes.get_xticklabels(which="both")} == {TYPE}
    assert axes.title.get_fontsize() == TYPE
    with Image.open(tmp_path / "f.png") as image:
        assert image.width == pytest.approx(WIDTH * DPI, abs=1)
    # Two dots per pixel of the page: what a sharp screen has.
    text = written(tmp_path, Section("A", pictures={"caption": tmp_path / "f.png"}))
    assert int(re.search(r"width='(\d+)'", text)[1]) == pytest.approx(WIDTH * 96, abs=1)
    assert "<figcaption>caption</figcaption>" in text


def test_steps_are_whole_numbers():
    lines = [{"step": n, "loss": 1.0, "feature_norm": 1.0, "distortion": 1.0} for n in (1, 2, 3)]
    for draw in (training_figures.training_norms, training_figures.distortion):
        (axes,) = draw({"a": lines}).axes
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    assert training_figures.scales({"a": lines}) is None
    (axes,) = training_figures.distortion({"a": lines}).axes
    assert axes.get_title() == "Squared distance to own agent"


def test_a_draft_becomes_a_section_with_its_files(tmp_path):
    draft = Draft("Title", [table()], {"roc": Drawn("The ROC", panels()[0])})
    (section,) = save_drafts([draft], tmp_path / "figures")
    assert section.pictures == {"The ROC": tmp_path / "figures/roc.png"}
    assert section.pictures["The ROC"].is_file()


def test_false_accepts_and_false_rejects_are_not_exchanged():
    accepts = [HardPair(f"accepted{n}", "b", 0.9) for n in range(SHOWN + 1)]
    rejects = [HardPair("rejected", "b", 0.1)]
    draft = hardest_section("Hardest", accepts, rejects, lambda name: FACE)
    different, same = draft.pairs.items()
    assert different[0].startswith("Different people")
    assert [pair.lines[1] for pair in different[1]] == [f"accepted{n}" for n in range(SHOWN)]
    assert same[0].startswith("One person")
    assert [pair.lines for pair in same[1]] == [("0.100", "rejected", "b")]


def test_faces_of_a_pair_are_in_the_page(tmp_path):
    colours = (200, 0, 0), (0, 0, 200)
    grey = np.full((300, 240, 1), 90, np.uint8)
    pairs = [FacePair(tuple(np.full((40, 40, 3), c, np.uint8) for c in colours), ("a",))]
    text = written(tmp_path, Section("A", pairs={"kind": [*pairs, FacePair((grey, FACE), ("b",))]}))
    data = re.findall(r"src='data:image/jpeg;base64,(.*?)'", text)
    images = [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]
    assert [image.size for image in images] == [(40, 40), (40, 40), (179, 224), (6, 8)]
    for image, colour in zip(images, [*colours, (90, 90, 90)], strict=False):
        np.testing.assert_allclose(image.getpixel((20, 20)), colour, atol=4)


# ------------------------------------------------------------------------------------ moved folders


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two settings, one of whose runs has a page and an evaluation."""
    out = tmp_path / "sweep"
    names = ["loss.weight=a%2Fb#1", "loss.weight=2"]
    for name in names[:1]:
        run = out / name
        owned.write_text(run / "results.json", "{}")
        write_page(run / "report.html", Page("run", "", [], links=run_links(run)))
    runs = [
        SweptRun(names[0], {"loss.weight": "a/b"}, 0, "done", {"accuracy": 0.9}),
        SweptRun(names[1], {"loss.weight": "2"}, 0, "failed", {}, BAD),
    ]
    write_sweep_report(out, name="orl", runs=runs, command="", settings={})
    # As evaluate does: the page of the evaluation, then the link to it from the run.
    run = out / names[0]
    write_page(
        run / "report.html", Page("run", "", [Section("A", [table()])], links=run_links(run))
    )
    owned.write_text(run / "evaluation/evaluation.json", "{}")
    page = Page("evaluation", "", [], links=evaluation_links(run / "evaluation", run))
    write_page(run / "evaluation/evaluation.html", page)
    link_from_run(run, run / "evaluation")
    return out


def links_of(path):
    text = path.read_text()
    found = map(html.unescape, re.findall(r"href='([^'#]*)'", text))
    return {os.path.normpath(path.parent / unquote(target)) for target in found}


def test_a_moved_sweep_leads_to_its_runs_their_evaluations_and_files(sweep, tmp_path):
    moved = tmp_path / "elsewhere/moved"
    moved.parent.mkdir()
    shutil.move(sweep, moved)
    seen, waiting = set(), [str(moved / "sweep.html")]
    while waiting:
        path = Path(waiting.pop())
        if path in seen or path.suffix != ".html":
            continue
        seen.add(path)
        assert not list(broken_links(path)), path
        waiting += links_of(path)
    run = moved / "loss.weight=a%2Fb#1"
    assert seen == {moved / "sweep.html", run / "report.html", run / "evaluation/evaluation.html"}
    assert str(moved / "sweep.html") in links_of(run / "report.html")
    assert str(run / "results.json") in links_of(run / "report.html")
    assert str(run / "report.html") in links_of(run / "evaluation/evaluation.html")


def test_adding_a_link_changes_nothing_else_of_a_page(sweep):
    run = sweep / "loss.weight=a%2Fb#1"
    before = (run / "report.html").read_text()
    link_from_run(run, run / "evaluation")
    assert (run / "report.html").read_text() == before
    assert "<h2 id='1'>A</h2>" in before


def test_a_page_of_somebody_else_gets_no_link(tmp_path):
    owned.write_text(tmp_path / "run/results.json", "{}")
    (tmp_path / "run/report.html").write_text("<!--links--><!--/links-->")
    link_from_run(tmp_path / "run", tmp_path / "run/evaluation")
    assert (tmp_path / "run/report.html").read_text() == "<!--links--><!--/links-->"


def test_the_best_setting_is_marked_and_tables_can_be_sorted(sweep):
    text = (sweep / "sweep.html").read_text()
    rows = re.findall(r"<tr( class=best)?><td.*?>(.*?)</td>", text)
    assert [row[1] for row in rows if row[0]] == ["a/b <strong>best</strong>"]
    assert text.count("<table class='sortable'>") == 2
    assert "Runs that are not done" in text
    assert html.escape(BAD) in text


def test_the_lowest_error_is_the_best(tmp_path):
    runs = [SweptRun(str(e), {"x": e}, 0, "done", {"equal_error_rate": e}) for e in (0.3, 0.1, 0.2)]
    write_sweep_report(tmp_path, name="orl", runs=runs, command="", settings={})
    text = (tmp_path / "sweep.html").read_text()
    assert "0.1 <strong>best</strong>" in text
    assert "mean of EER" in text
    assert "Runs that are not done" not in text


def test_a_verification_has_a_page(tmp_path):
    point = {"far": 0.01, "threshold": 0.3, "reject_threshold": 0.2, "measured_far": 0.008}
    pair = {"first": BAD, "second": "b", "similarity": 0.5, "norms": (1.0, 2.0)}
    record = {
        "run": "net.onnx",
        "steps": ["the network"],
        "far": {**point, "measured_tar": None, "measured_frr": None},
        "prior": 0.5,
        "compared": 9,
        "pairs": [{**pair, "decision": "same", "probability": 0.75}],
        "left out": [{"name": BAD, "reason": "no face"}],
    }
    shown = ShownPair((FACE, FACE), (BAD, "b"), (1.0, 2.0), 0.5, "same")
    write_verification(tmp_path, [shown], record, summary="FAR 1 %", command="hyperface verify")
    text = (tmp_path / "verification.html").read_text()
    assert not list(broken_links(tmp_path / "verification.html"))
    for expected in ("0.5000", "same", "0.7500", "0.3000", "0.80 %", "Of 9 pairs the 1 most"):
        assert expected in text
    assert BAD not in text
    unknown = {**record, "far": None, "left out": []}
    unknown["pairs"] = [{**pair, "decision": None, "probability": None}]
    write_verification(tmp_path, [shown], unknown, summary="not calibrated", command="")
    text = (tmp_path / "verification.html").read_text()
    assert not re.search("Thresholds|left out|probability", text)
