import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from moe_lab import cli, report
from moe_lab.pages.show import mime
from moe_lab.report import described, notebooks, places, sections, thumbnail
from moe_lab.report.grid import read as read_grid
from moe_lab.report.model import Link, Look
from moe_lab.spec.errors import UserError

PARAMETERS = 'M = 16  # tokens\nbackend = "fused_moe"  # experts backend\nscale = 1.0  # of the axis'
FIGURE = "import plotly.graph_objects as go\nfigure = go.Figure(go.Bar(x=['a', 'b'], y=[M, 2]))\nfigure.show()"
HEADLINE = """from moe_lab.pages.show.findings import Finding, show
show([Finding('', f'M is {M}.'), Finding('Second', 'more.')])"""


def notebook(folder: Path, *cells: str, name: str = "01_tiny") -> Path:
    """GIVEN a notebook of a few cells, the first with the parameters."""
    built = new_notebook(
        cells=[
            new_markdown_cell("# Tiny\n\nWhat is M?\n\nAn introduction.", id="title"),
            new_code_cell(PARAMETERS, id="parameters", metadata={"tags": ["parameters"]}),
            *(new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    path = folder / f"{name}.ipynb"
    nbformat.write(built, path)
    return path


def build(path: Path, out: Path, **options: object) -> report.Report:
    given = {"parameters": {}, "grid": None, "show_code": False} | options
    return report.build([str(path)], out=out, **given)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    """One executed notebook with a figure, a headline, a printed path and a parameter."""
    folder = tmp_path_factory.mktemp("built")
    path = notebook(folder, HEADLINE, FIGURE, "import sys\nprint(sys.executable)\nprint(repr(scale))")
    return build(path, folder / "reports", parameters={"M": 33, "scale": 2})


def test_build_reports_title_question_and_headline(built: report.Report) -> None:
    page = built.pages[0]
    assert (page.title, page.question, page.headline, page.failed) == ("Tiny", "What is M?", "M is 33.", None)


def test_build_counts_the_figures_that_reach_the_page(built: report.Report) -> None:
    text = built.pages[0].html.read_text()
    assert built.pages[0].figures == 1
    specs = re.findall(r'<script class="plot-data" type="application/json">(.*?)</script>', text, re.S)
    assert json.loads(specs[0])["data"][0]["y"] == [33, 2]


def test_build_shares_the_scripts_of_figures_and_tables_and_loads_nothing_else(built: report.Report) -> None:
    text = built.pages[0].html.read_text()
    loaded = re.findall(r"""<(?:script|link)\b[^>]* (?:src|href)="([^"]+)""", text)
    assert loaded == [
        "data:,",
        *(f"report_files/{name}" for name in ("style.css", "plotly.js", "tables.js", "page.js")),
    ]
    assert all((built.index.parent / name).stat().st_size for name in loaded[1:])
    assert "plotly.js v" in (built.index.parent / "report_files" / "plotly.js").read_text()
    assert len(text) < 100_000


def test_build_of_single_files_puts_every_script_into_the_page_once(tmp_path: Path) -> None:
    page = build(notebook(tmp_path, FIGURE), tmp_path / "out", single_file=True).pages[0]
    text = page.html.read_text()
    assert text.count("plotly.js v") == text.count("window.moeLabTables = import") == 1
    outside = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", text, flags=re.S)
    assert "report_files" not in outside
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", outside)
    assert sorted(p.name for p in page.html.parent.iterdir()) == ["01_tiny.html", "index.html"]


def test_build_runs_this_interpreter_and_names_no_folder(built: report.Report) -> None:
    text = built.pages[0].html.read_text()
    assert "&lt;python&gt;/bin/python" in text  # sys.executable, its prefix shortened
    assert str(Path.home()) not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)


def test_build_fits_a_whole_number_to_a_float_parameter(built: report.Report) -> None:
    assert "\n2.0" in built.pages[0].html.read_text()


def test_build_hides_code_behind_a_button(built: report.Report) -> None:
    text = built.pages[0].html.read_text()
    assert '<html lang="en">' in text
    assert "go.Figure" in re.sub(r"<[^>]+>", "", text)
    assert ">Show code</button>" in text


def test_index_card_has_headline_thumbnail_and_link(built: report.Report) -> None:
    text = built.index.read_text()
    assert "M is 33." in text
    assert 'href="01_tiny.html"' in text
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    assert heights[0] / heights[1] == pytest.approx(33 / 2, rel=0.01)


def test_build_leaves_nothing_but_pages(built: report.Report) -> None:
    assert sorted(p.name for p in built.index.parent.iterdir()) == ["01_tiny.html", "index.html", "report_files"]


def test_build_links_a_failed_notebook_with_its_sentence_and_runs_the_others(tmp_path: Path) -> None:
    bad = notebook(
        tmp_path,
        "from moe_lab.spec.errors import UserError\nraise UserError('There is no run; capture one.')",
        "print('never')",
        name="01_bad",
    )
    good = notebook(tmp_path, "print('fine')", name="02_good")
    done = report.build([str(bad), str(good)], out=tmp_path / "out", parameters={}, grid=None, show_code=True)
    assert [p.failed for p in done.pages] == ["There is no run; capture one.", None]
    page = done.pages[0].html.read_text()
    assert "There is no run; capture one." in page
    assert "Traceback" in page
    assert "never" not in page, "cells after the error did not run and are not shown"
    assert "There is no run; capture one." in done.index.read_text()
    assert '<html class="code" lang="en">' in done.pages[1].html.read_text()


def test_build_fails_a_page_that_would_lose_a_figure(tmp_path: Path) -> None:
    path = notebook(tmp_path, FIGURE + "\nfigure.show('notebook_connected')")
    page = build(path, tmp_path / "out").pages[0]
    assert page.failed is not None
    assert page.failed.startswith("The notebook drew 2 figures but 1 reached the page")
    assert "plotly.js v" not in page.html.read_text()


def test_build_fails_a_page_that_would_load_from_the_network(tmp_path: Path) -> None:
    path = notebook(tmp_path, "from IPython.display import HTML\nHTML('<img src=\"https://example.com/a.png\">')")
    page = build(path, tmp_path / "out").pages[0]
    assert page.failed == (
        "The page would load https://example.com/a.png from the network; embed it in the notebook's output instead."
    )


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"batch": 1}, "No parameter is called 'batch': 01_tiny.ipynb knows M, backend, scale"),
        ({"M": "many"}, "Parameter 'M' is a whole number (tokens)"),
        ({"M": True}, "Parameter 'M' is a whole number (tokens)"),
        ({"backend": {"a": 1}}, "not a mapping"),
    ],
)
def test_build_refuses_a_parameter_before_anything_runs(tmp_path: Path, parameters: dict, sentence: str) -> None:
    path = notebook(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match=re.escape(sentence)):
        build(path, tmp_path / "out", parameters=parameters)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["01_tiny.ipynb"]


def test_build_makes_one_page_a_grid_point_with_readable_names(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("M: [16, 33]\nbackend: [our/own]\n")
    path = notebook(tmp_path, HEADLINE)
    done = build(path, tmp_path / "out", grid=grid)
    assert [p.html.name for p in done.pages] == ["01_tiny--M-16.html", "01_tiny--M-33.html"]
    assert [(p.label, p.headline) for p in done.pages] == [("M = 16", "M is 16."), ("M = 33", "M is 33.")]
    index = done.index.read_text()
    assert all(p.html.name in index and p.label in index for p in done.pages)
    assert re.findall(r"<tr><td>(\d+)</td><td><a href=\"([^\"]+)\">([^<]+)</a>", index) == [
        ("16", "01_tiny--M-16.html", "M is 16."),
        ("33", "01_tiny--M-33.html", "M is 33."),
    ]
    table = pd.read_csv(tmp_path / "out" / "grid.csv")
    assert table[["M", "headline"]].values.tolist() == [[16, "M is 16."], [33, "M is 33."]]


def test_grid_mapping_is_the_product_and_a_list_is_the_points(tmp_path: Path) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("M: [1, 2]\nphase: [prefill, decode]\n")
    product = read_grid(grid)
    assert product == [{"M": m, "phase": p} for m in (1, 2) for p in ("prefill", "decode")]
    grid.write_text("- {M: 1, phase: decode}\n- {M: 4096, phase: prefill}\n")
    assert read_grid(grid) == [{"M": 1, "phase": "decode"}, {"M": 4096, "phase": "prefill"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(None, "does not exist"), ("M: [1", "cannot be read as YAML"), ("just words", "must map"), ("{}", "has 0 points")],
)
def test_grid_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    grid = tmp_path / "grid.yaml"
    if text is not None:
        grid.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_grid(grid)


def test_a_folder_stands_for_its_notebooks_in_order(tmp_path: Path) -> None:
    made = [notebook(tmp_path, name=name) for name in ("02_second", "01_first")]
    assert notebooks.find([str(tmp_path)]) == made[::-1]
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="The folder 'empty' has no notebook"):
        notebooks.find([str(empty)])


def test_build_refuses_a_notebook_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "01_broken.ipynb"
    broken.write_text("{")
    with pytest.raises(UserError, match="cannot be read as a notebook"):
        build(broken, tmp_path / "out")
    with pytest.raises(UserError, match="'99_none' is no notebook; choose one of: "):
        report.build(["99_none"], out=tmp_path / "out", parameters={}, grid=None, show_code=False)


def test_build_names_of_a_given_folder_only_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN folders outside and inside the project as parameters, and a notebook that prints and displays them
    THEN neither footer, code, outputs, label, file name nor the index holds a path of this machine.
    """
    away, inside = tmp_path / "some data" / "MI300X_A1", tmp_path / "project" / "profiles" / "mi300x" / "moe"
    inside.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    cells = (
        HEADLINE,
        "print(backend)",
        "from IPython.display import HTML\nHTML(f'<p>{backend}</p>')",
        "from moe_lab.spec.errors import UserError\nraise UserError(f'{backend} cannot be read.')",
    )
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps([{"backend": f"{away},{inside}"}, {"backend": f"python {away}/run.py --out={inside}"}]))
    done = build(notebook(tmp_path, *cells), tmp_path / "out", grid=grid)
    first, second = (re.sub(r"<script>.*?</script>", "", p.html.read_text(), flags=re.S) for p in done.pages)
    assert "backend = MI300X_A1,profiles/mi300x/moe</code>" in first
    assert "MI300X_A1,profiles/mi300x/moe cannot be read." in first
    assert done.pages[0].failed == "MI300X_A1,profiles/mi300x/moe cannot be read."
    assert done.pages[0].html.name == "01_tiny--backend-MI300X_A1_profiles_mi300x_moe.html"
    assert "--out=profiles/mi300x/moe" in second
    for text in (first, second, done.index.read_text(), *(p.html.name for p in done.pages)):
        assert str(tmp_path) not in text
        assert tmp_path.name not in text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/data/rocprof/MI200/", "MI200"),
        (["/a/b", "h200/run", 3, None], ["b", "h200/run", 3, None]),
        ("~/runs/moe", "moe"),
        (r"(^|[./])layers\.0$", r"(^|[./])layers\.0$"),
        ("python -m moe_lab.gpu --out=/data/x a/b", "python -m moe_lab.gpu --out=x a/b"),
        (16, 16),
        ("", ""),
    ],
)
def test_places_of_a_parameter_are_cut_and_all_else_stays(given: object, shown: object) -> None:
    assert places.value(given) == shown


def test_build_ignores_a_python3_kernel_that_the_user_has_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "share" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    assert build(notebook(tmp_path, HEADLINE), tmp_path / "out").pages[0].failed is None


def test_build_says_that_a_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(UserError, match="choose another with --out"):
        build(notebook(tmp_path, HEADLINE), tmp_path / "out")


def test_sections_in_which_nothing_was_measured_are_left_out() -> None:
    nothing = new_output("display_data", {"text/plain": "No run is shown.", mime.NOTHING: True})
    shown = new_output("display_data", {"text/plain": "a table"})
    cells = [new_markdown_cell("# Title"), new_code_cell("x = 1")]
    for name, outputs in (("Empty", [nothing, nothing]), ("Silent", []), ("Mixed", [nothing, shown])):
        cells += [new_markdown_cell(f"## {name}\n\nText."), new_code_cell("show()", outputs=outputs)]
    kept = sections.with_something(cells)
    assert sections.headings(new_notebook(cells=kept)) == [("Silent", "Silent"), ("Mixed", "Mixed")]
    assert len(kept) == 6


def test_page_leads_to_the_folder_of_a_run_only_within_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path / "project" / "profiles"))
    run, inside = {"folder": "profiles/h200/x"}, tmp_path / "project" / "reports"
    assert sections.address(run, Look(inside)) == "../profiles/h200/x"
    assert sections.address(run, Look(inside, single_file=True)) == ""
    assert sections.address(run, Look(tmp_path / "elsewhere")) == ""
    assert sections.address({"folder": ""}, Look(inside)) == ""


def test_pages_know_those_before_and_after_them() -> None:
    links = [Link(name, f"{name}.html") for name in "abc"]
    assert sections.around(links, "b.html") == (links[0], links[2])
    assert sections.around(links, "a.html") == (None, links[1])
    assert sections.around([], "a.html") == (None, None)


def test_figure_says_what_it_shows() -> None:
    drawn = {
        "data": [{"type": "bar", "name": "<b>ours</b>"}, {"type": "bar", "name": "peer"}],
        "layout": {"xaxis": {"title": {"text": "tokens (M)"}}, "yaxis": {"title": {"text": "time (µs)"}}},
    }
    assert described.figure(drawn) == "time (µs) over tokens (M): bars of ours, peer."
    assert described.figure({"data": [], "layout": {}}) == "plot: no data."


def test_thumbnail_of_a_heat_map_has_its_cells_in_their_colours() -> None:
    scale = [[0, "#000000"], [1, "#ffffff"]]
    trace = {"type": "heatmap", "z": [[0, None], [2, 1.9]], "zmin": 0, "zmax": 2, "colorscale": scale}
    fills = re.findall(r'fill="(#\w+)"', thumbnail.draw({"data": [trace], "layout": {}}))
    assert fills == ["#000000", "#ffffff", "#ffffff"]


def test_thumbnail_of_a_heat_map_follows_the_paper() -> None:
    light, dark = [[0, "#eeeeee"], [1, "#66aaaa"]], [[0, "#222222"], [1, "#006655"]]
    trace = {"type": "heatmap", "z": [[7, 9]], "colorscale": light, "meta": {"dark": dark}}  # without zmin and zmax
    svg = thumbnail.draw({"data": [trace], "layout": {}})
    assert re.findall(r'fill="#eeeeee" style="([^"]*)"', svg) == ["fill:light-dark(#eeeeee,#222222)"]
    assert re.findall(r'fill="#66aaaa" style="([^"]*)"', svg) == ["fill:light-dark(#66aaaa,#006655)"]


def test_thumbnail_reads_typed_arrays_and_keeps_the_order_of_the_axis() -> None:
    # float64 1.0 and 3.0, as plotly.py stores numpy arrays; "top" is last in a plotly array and drawn first.
    x = {"dtype": "f8", "bdata": "AAAAAAAA8D8AAAAAAAAIQA=="}
    bar = {"type": "bar", "orientation": "h", "x": x, "y": ["bottom", "top"], "marker": {"color": "#123456"}}
    svg = thumbnail.draw({"data": [bar], "layout": {"yaxis": {"categoryarray": ["bottom", "top"]}}})
    rects = re.findall(r'y="([\d.]+)" width="([\d.]+)"', svg)
    y_of = {float(width): float(y) for y, width in rects}
    short, long = sorted(y_of)
    assert long / short == pytest.approx(3, rel=0.01)
    assert y_of[long] < y_of[short]


def test_thumbnail_draws_lines_on_a_logarithmic_axis() -> None:
    line = {"type": "scatter", "x": [1, 10, 100], "y": [0, 1, 2]}
    svg = thumbnail.draw({"data": [line], "layout": {"xaxis": {"type": "log"}}})
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', svg).group(1).split()]
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2)


def test_thumbnail_of_a_figure_without_bars_or_lines_is_empty() -> None:
    assert thumbnail.draw({"data": [{"type": "heatmap", "z": [[1]]}], "layout": {}}) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n".join(f"p{i}: {list(range(100))}" for i in range(6)), "1,000,000,000,000 points"),
        ("a: 2020-99-99", "cannot be read as YAML"),
        ("[" * 5000, "nested"),
        ("M: [1]\nM: [2]", "names 'M' twice"),
        ("5: [1]", "'5' as a parameter's name"),
        ("- {5: 1}", "'5' as a parameter's name"),
        ("", "has 0 points"),
        ("M: []", "has 0 points"),
        ("- 5", "must map"),
        ("M: [2020-01-01]", "not a date"),
        ("M: [{a: 1}]", "not a mapping"),
        ("scale: [.nan]", "cannot be nan"),
        ("scale: [.inf]", "cannot be inf"),
        ("M: [1.5]", "a whole number"),
        ("x: [1]", "No parameter is called 'x'"),
        ("M: !!python/object:os.system []", "cannot be read as YAML"),
    ],
    ids=range(16),
)
def test_grids_that_ask_for_too_much_or_the_wrong_thing_are_one_sentence(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    path = notebook(tmp_path)
    assert cli.main(["report", str(path), "--grid", str(grid), "--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "out").exists()


CELL = {"id": "a", "cell_type": "code", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None}
WHOLE = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (WHOLE | {"cells": [CELL | {"source": "a = f()"}]}, "'a' is not a literal"),
        (WHOLE | {"cells": [CELL | {"source": "a = ("}]}, "The parameters cell of 'nb.ipynb' cannot be read"),
        (WHOLE | {"cells": [CELL | {"source": "a = " + "-" * 5000 + "1"}]}, "The parameters cell of 'nb.ipynb'"),
        (WHOLE | {"cells": [CELL | {"source": "a = " + "9" * 5000}]}, "The parameters cell of 'nb.ipynb'"),
        (WHOLE | {"cells": [CELL | {"source": "a = 1", "metadata": {"tags": None}}]}, "cannot be read as a notebook"),
        (WHOLE | {"cells": [CELL | {"source": 5}]}, "cannot be read as a notebook"),
        (WHOLE, "cannot be read as a notebook"),
        (WHOLE | {"cells": 5}, "cannot be read as a notebook"),
        (WHOLE | {"nbformat": 99, "cells": []}, "cannot be read as a notebook"),
        (WHOLE | {"nbformat": "4", "cells": []}, "cannot be read as a notebook"),
        ([], "cannot be read as a notebook"),
        ("[" * 100_000, "cannot be read as a notebook"),
        ("", "cannot be read as a notebook"),
    ],
    ids=range(13),
)
def test_broken_notebooks_are_one_sentence(
    tmp_path: Path, content: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nb.ipynb"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out")]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("9" * 30, "a whole number"),
        ("NaN", "a whole number"),
        ("1e400", "a whole number"),
        ("true", "a whole number"),
        ("[[1]]", "not a list in a list"),
        ('{"a": 1}', "not a mapping"),
    ],
)
def test_values_that_do_not_fit_a_parameter_are_one_sentence(
    tmp_path: Path, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["report", str(notebook(tmp_path)), "-p", "M", value, "--out", str(tmp_path / "out")])
    sentence = capsys.readouterr().err
    assert (code, sentence.count("\n")) == (2, 1)
    assert said in sentence


@pytest.mark.parametrize("value", ["\udcff", "a\x1b[31m", "x" * 10_001])
def test_texts_that_a_notebook_cannot_hold_are_one_sentence(
    tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(["report", str(notebook(tmp_path)), "-p", "backend", value, "--out", str(tmp_path / "out")])
    sentence = capsys.readouterr().err
    assert (code, sentence.count("\n")) == (2, 1)
    assert "without control characters" in sentence


@pytest.mark.parametrize("name", ["", "/", "/dev/null", "x" * 300, "a\0b", "../" * 200])
def test_notebooks_that_are_none_are_one_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_text_parameters_reach_the_notebook_as_they_are(tmp_path: Path) -> None:
    text = "quotes ' \" and \\ back \n line {x} %s </script>"
    path = notebook(tmp_path, "print(ascii(backend))")
    page = build(path, tmp_path / "out", parameters={"backend": text}).pages[0]
    assert page.failed is None
    shown = html.unescape(page.html.read_text())
    assert ascii(text) in shown


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stop_from_the_keyboard_leaves_no_page_and_no_kernel(jobs: int, tmp_path: Path) -> None:
    """With two notebooks at once both kernels end; with one the second never begins."""
    started = tmp_path / "started"
    started.mkdir()
    begun = f"import os, pathlib\npathlib.Path({str(started)!r}, str(os.getpid())).touch()"
    first = notebook(tmp_path, begun, "import time\ntime.sleep(60)")
    second = shutil.copy(first, first.with_name("02_tiny.ipynb"))
    argv = [sys.executable, "-m", "moe_lab", "report", first, second, "--jobs", jobs, "--out", tmp_path / "out"]
    # What a shell runs in the background does not hear it otherwise.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, argv)), **pipes, start_new_session=True, preexec_fn=heard)
    deadline = time.monotonic() + 30
    while len(list(started.iterdir())) < jobs and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err == "moe-lab: stopped.\n"
    assert list((tmp_path / "out").iterdir()) == []
    kernels = [Path("/proc", path.name) for path in started.iterdir()]
    assert len(kernels) == jobs
    deadline = time.monotonic() + 10  # its new parent may ask for one late
    while any(map(alive, kernels)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, kernels))


def alive(process: Path) -> bool:
    """Return whether a process runs; one that ended and whose parent has not asked for it does not."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("meta", [{"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}])
def test_a_notebook_of_another_language_is_one_sentence_before_anything_runs(meta, tmp_path, capsys) -> None:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": meta, "cells": []}))
    assert cli.main(["report", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "moe-lab: 'a.ipynb' is written in R; give a Python notebook.\n"
    assert not (tmp_path / "out").exists()
