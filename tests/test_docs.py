"""The documentation's examples run, its commands exist, and its links lead somewhere."""

import contextlib
import functools
import importlib
import io
import re

import pytest
from pages import PAGES, ROOT, blocks, run_examples

from hyperface.cli import SUBCOMMANDS

names = [page.relative_to(ROOT).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=str)
def test_the_examples_run(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_examples(page)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_name_subcommands_that_exist(page):
    shown = "\n".join(blocks(page, ""))
    named = re.findall(r"^hyperface ([a-z]+)", shown, re.MULTILINE)
    for name in named + re.findall(r"`hyperface ([a-z]+)\b", page.read_text()):
        assert name in SUBCOMMANDS, f"{page.name}: hyperface {name}"


@functools.cache
def options_of(name):
    """The options that a subcommand's help shows, with those of the runs that a sweep trains."""
    command = importlib.import_module(SUBCOMMANDS[name].module)
    arguments = ["--help-all"] if hasattr(command, "MAIN_OPTIONS") else ["--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        command.main(arguments)
    found = set(re.findall(r"--[a-z][a-z0-9.-]*", shown.getvalue()))
    return found | options_of("train") if name == "sweep" else found


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_have_options_that_exist(page):
    # A command goes on in the next line if that is indented, or if this one ends in a backslash.
    shown = re.sub(r"(\\\n|\n {2,})", " ", "\n".join(blocks(page, "")))
    calls = re.findall(r"^hyperface ([a-z]+)(.*)$", shown, re.MULTILINE)
    calls += re.findall(r"`hyperface ([a-z]+)\b([^`]*)`", page.read_text())
    for name, words in calls:
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9.-]*", words):
            assert option in options_of(name), f"{page.name}: hyperface {name} {option}"


def anchors(text):
    """The anchors of a page's headings, as code hosts and Sphinx make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        # docs/pictures and notebooks are files too.
        assert file.exists(), f"{page.name}: {target}"
        if heading:
            assert heading in anchors(file.read_text()), f"{page.name}: {target}"


def test_the_readme_is_short():
    """A newcomer reads it to its end in ten minutes."""
    assert len((ROOT / "README.md").read_text().split()) <= 2000
