"""Defines the style sheet of all pages, the script that sorts tables, and what a page may load."""

import base64
import hashlib

STYLE = """
:root { --text: #222; --soft: #555; --back: #fff; --box: #f5f5f5; --line: #ddd; --head: #888;
        --link: #0b57d0; --best: #e8f4ea; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --soft: #aaa; --back: #171717; --box: #242424; --line: #363636;
          --head: #888; --link: #8ab4f8; --best: #1d3324; }
  .pictures img { filter: invert(.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: var(--text); background: var(--back); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
a { color: var(--link); }
pre { background: var(--box); padding: .8rem 1rem; font-size: .85rem; white-space: pre-wrap; }
pre.command { overflow-x: auto; } pre.command span { white-space: nowrap; }
pre.command::before { content: "$ "; color: var(--soft); }
.summary, .note { white-space: pre-line; }
.note, figcaption { color: var(--soft); font-size: .9rem; max-width: 52rem; }
.links a { margin-right: 1rem; white-space: nowrap; }
.contents ol { margin: .3rem 0; columns: 22rem; column-gap: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: .3rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; min-width: 9rem; padding-left: .3rem; }
.text { text-align: left; }
.short { white-space: nowrap; }
thead tr { border-bottom: 2px solid var(--head); }
tbody tr { border-bottom: 1px solid var(--line); }
tr.best { background: var(--best); }
th button { all: unset; cursor: pointer; font-weight: bold; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.pictures, .pairs { display: flex; flex-wrap: wrap; gap: 1.5rem; margin-top: 1rem; }
figure { margin: 0; }
.panel { flex: 0 1 451px; } .wide { flex: 0 1 100%; min-width: 0; }
.pictures img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .4rem; }
.pair { width: 216px; } .pair img { width: 50%; padding-right: 4px; vertical-align: bottom; }
.pair figcaption { font-size: .8rem; line-height: 1.35; }
details { margin-top: .8rem; } summary { cursor: pointer; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; } th, td { padding: .3rem .5rem; }
  .wide img { max-width: none; width: 46rem; }
  .pairs { gap: 1rem .8rem; } .pair { width: calc(50% - .4rem); }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const number = cell => parseFloat(cell.textContent.replace(/,/g, ""));
  const compare = (a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) !== isNaN(y)) return isNaN(x) - isNaN(y);
    return isNaN(x) ? a.textContent.localeCompare(b.textContent) : x - y;
  };
  table.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.title = "Sort by this column";
    button.onclick = () => {
      const sign = head.ariaSort === "descending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      const filled = rows.filter(row => row.cells[column].textContent);
      const empty = rows.filter(row => !row.cells[column].textContent);
      filled.sort((a, b) => sign * compare(a.cells[column], b.cells[column]));
      table.querySelectorAll("th").forEach(other => other.ariaSort = null);
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      table.tBodies[0].append(...filled, ...empty);
    };
  });
}
"""
"""Sorts the rows of a table by a click on the head of a column; empty cells come last."""

# By its digest, so that a script in a text from outside would not run.
_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'"
)
"""What a page may load: nothing from outside, and no script but ours."""
