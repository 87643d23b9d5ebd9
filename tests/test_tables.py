"""Tables of figures as text: what a reader compares must be right and readable."""

from hyperface.report.tables import Table, as_text, percent


def test_a_spread_is_in_percent_as_its_figure_is():
    """0.21 beside 99.12 %: else errors would look a hundred times too small."""
    assert percent(0.9912, 0.0021) == "99.12 ± 0.21 %"
    assert percent(0.9912) == "99.12 %"


def test_numbers_of_a_printed_table_end_in_one_column():
    table = Table("Title", ("method", "accuracy"), [("a", "9.5 %"), ("longer", "99.25 %")], "note")
    title, rule, header, _, *rows, note = as_text(table).splitlines()
    assert (title, note) == ("Title", "note")
    assert [header, *rows] == ["method  accuracy", "a          9.5 %", "longer   99.25 %"]
    assert len(rule) == len(header)
