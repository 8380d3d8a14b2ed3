import pandas as pd
import pytest

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
        assert field.meaning or field.column in metrics.BY_COLUMN, field.column
    for table in schema.TABLES:
        assert len(schema.of(table)) == sum(field.table == table for field in schema.fields()), "one line a column"
