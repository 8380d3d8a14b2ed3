import pandas as pd
import pytest
from launches_fixture import phase

from moe_lab.analysis import kernels
from moe_lab.analysis.floors import floors
from moe_lab.pages.layer_breakdown import tables as page
from moe_lab.pages.show import mime, provenance, tables


def cells(markup: str) -> list[list[str]]:
    from html.parser import HTMLParser

    class Rows(HTMLParser):
        rows: list[list[str]]
        inside = False

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.inside = tag in ("td", "th", "small", "wbr")
            if tag == "tr":
                self.rows.append([])
            elif tag in ("td", "th"):
                self.rows[-1].append("")

        def handle_data(self, data: str) -> None:
            if self.inside and self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    parser = Rows()
    parser.rows = []
    parser.feed(markup)
    return parser.rows


def test_table_shows_missing_quantities_as_a_dash_never_as_zero() -> None:
    frame = pd.DataFrame({"a": pd.array([1.5, pd.NA], "Float64")})
    assert cells(tables.Table(frame, [tables.Column("a", "time", "ms", 2)]).html())[1:] == [["1.50"], ["–"]]


def test_table_escapes_what_a_report_says() -> None:
    markup = tables.Table(pd.DataFrame({"k": ["gemm<128>(a & b)"]}), [tables.Column("k", "kernel")]).html()
    assert "gemm&lt;128&gt;(a &amp; b)" in markup


def test_ranges_shows_ours_and_the_published_times_with_their_units() -> None:
    rows = cells(page.ranges(phase()).html())
    assert rows[0] == ["", "decode, H200", "L40, published"]
    assert rows[1][:3] == ["range", "kernel timems", "of layer%"]
    w13 = next(row for row in rows if row[0] == "w13")
    assert w13 == ["w13", "0.0400", "40.0", "1", "0.0000", "0.163", "38.2"]


def test_ranges_of_another_phase_has_no_published_columns() -> None:
    assert "published" not in page.ranges(phase("capture")).html()


def test_kernels_shows_the_launch_geometry() -> None:
    given = phase()
    rows = cells(page.kernels(kernels.top_kernels(given.launches, given.layer_range, limit=1)).html())
    named = dict(zip(rows[0], rows[1], strict=True))
    assert named["kernel"] == "grouped_gemm"
    assert named["grid_blocksblocks"] == "6,144"
    assert named["block_threadsthreads"] == "128"


def test_provenance_names_gpu_tool_and_what_was_left_out() -> None:
    shown = provenance.of([phase()])
    rows = dict(cells(shown.html())[1:])
    assert rows["GPU"] == "NVIDIA H200, 132 SMs, 140 GiB"
    assert rows["Tool"] == "nsys 2025.3.2"
    assert rows["Left out of the run"] == "Environment variables were dropped."
    card = shown._repr_mimebundle_()[mime.PROVENANCE][0]
    known = {"phase": "decode", "run": "h200/tiny_decode", "gpu": "H200", "date": "2026-05-12T10:11:12+00:00"}
    assert card == known | {"command": "python -m moe_lab.gpu layer", "folder": "", "files": []}


def test_provenance_leaves_out_facts_that_no_run_states() -> None:
    rows = dict(cells(provenance.of([phase(gpu=None, versions=None, workload=None)]).html())[1:])
    assert "Driver" not in rows
    assert "Workload" not in rows


def test_floors_without_a_stated_problem_says_so() -> None:
    assert "No run here states its problem" in page.floors(floors([phase(workload=None)])).html()


@pytest.mark.parametrize("stage", ["w13", "w2"])
def test_floors_gives_each_gemm_its_speed(stage: str) -> None:
    rows = cells(page.floors(floors([phase()])).html())
    assert next(row for row in rows if row[1:2] == [stage])[8:] == ["20.1", "–", "–", "–"]
