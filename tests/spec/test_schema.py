import csv
import json

import pandas as pd
import pytest

from moe_lab import cli
from moe_lab.pages.show.tables import Table, heads
from moe_lab.runs import rows
from moe_lab.spec import metrics, schema


@pytest.fixture
def column(tmp_path, monkeypatch):
    """One more line in the schema: a column of rows that nothing else knows."""
    path = tmp_path / "schema.csv"
    path.write_text(schema.SOURCE.read_text() + "rows,joules,time,J,2,energy,energy of a call\n")
    for cached in (schema.fields, schema.of, schema.shown):
        monkeypatch.setattr(schema, cached.__name__, cached.__wrapped__)
    monkeypatch.setattr(schema, "SOURCE", path)


def test_one_line_gives_a_column_its_head_check_and_documentation(column, tmp_path):
    html = Table(pd.DataFrame({"joules": [1.5]}), heads("joules")).html()
    assert "energy" in html
    assert "<small>J</small>" in html
    assert "1.50" in html
    assert "| `joules` | time | J | energy of a call |" in list(schema.document())
    known = rows.write([{"joules": -1.0}, {"joules": 2.0}], tmp_path / "rows.csv")
    with pytest.raises(Exception, match="no number from 0 up in 'joules'"):
        rows.read(tmp_path / "rows.csv", known)


def test_every_column_says_what_it_is():
    for field in schema.fields():
        assert field.table in schema.TABLES
        assert field.meaning, field.column
    for table in schema.TABLES:
        assert len(schema.of(table)) == sum(field.table == table for field in schema.fields()), "one line a column"


def test_a_column_has_its_meaning_in_one_place():
    flat = [field.column for field in schema.fields() if field.table != "ranges"]
    assert len(flat) == len(set(flat)), "what pages show is one namespace"
    counters = {metric.column for metric in metrics.COUNTERS}
    assert counters <= set(schema.of("counters"))
    assert {metric.column for metric in metrics.METRICS} - counters <= set(schema.of("launches"))
    with metrics.SOURCE.open(newline="") as file:
        assert next(csv.reader(file)) == ["column", "unit", "set", "names", "section", "label"], "ncu's words alone"


def test_the_schema_is_json_too(capsys):
    assert cli.main(["columns", "launches"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["launches"]
    assert said["launches"]["end_ns"] == {
        **{"dtype": "Int64", "unit": "ns", "label": "end_ns"},
        "meaning": "end on the device, ns",
    }
    assert cli.main(["columns"]) == 0
    assert {t: list(c) for t, c in json.loads(capsys.readouterr().out).items()} == {
        table: list(schema.of(table)) for table in schema.TABLES
    }
