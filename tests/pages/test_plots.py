import ast
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from launches_fixture import SHARES, phase

from moe_lab.analysis import phases
from moe_lab.pages.layer_breakdown import plots
from moe_lab.pages.show import figures, palette
from moe_lab.spec import plugins

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def linear(color: str) -> np.ndarray:
    srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    f = np.cbrt(np.clip(to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883], 0.0089, None))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_stage_colours_differ_for_every_eye(vision: str) -> None:
    # 10 units of CIELAB are a difference seen at a glance; these stages appear together in every layer.
    seen = {s: cielab(VISION[vision] @ linear(palette.STAGES[s])) for s in SHARES}
    close = [(a, b) for a, b in combinations(seen, 2) if np.linalg.norm(seen[a] - seen[b]) < 15]
    assert not close


def contrast(first: str, second: str) -> float:
    dark, light = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) + 0.05 for color in (first, second))
    return light / dark


@pytest.mark.parametrize(("paper", "text"), [("#fdfdfc", "#1d2430"), ("#14171c", "#e6e9ee")], ids=["light", "dark"])
def test_tints_of_heat_maps_carry_text_and_the_pale_one_is_near_the_paper(paper: str, text: str) -> None:
    for number in range(24):
        pale, strong = (tint[paper == "#14171c"] for tint in palette.tints(number, 24))
        assert min(contrast(text, pale), contrast(text, strong)) >= 4.5
        assert 1.05 < contrast(paper, pale) < 1.3
        assert contrast(paper, strong) > 1.4 * contrast(paper, pale)


def test_stage_color_of_a_fused_stage_is_that_of_its_first_part() -> None:
    assert palette.stage("w13+act") == palette.STAGES["w13"]
    assert palette.stage("never heard of") == palette.STAGES["other"]


def oklab(color: str) -> np.ndarray:
    lms = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    to = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
    return np.array(to) @ np.cbrt(np.array(lms) @ linear(color))


def test_any_two_plugins_differ_in_colour() -> None:
    seen = {name: oklab(palette.of(name)) for kind in ("experts", "align") for name in plugins.names(kind)}
    close = [(a, b) for a, b in combinations(seen, 2) if np.linalg.norm(seen[a] - seen[b]) < 0.06]
    assert len(seen) > 20
    assert not close


def test_backends_that_pages_draw_together_differ_where_light_colours_are_darkened() -> None:
    seen = {name: np.minimum(oklab(palette.of(name)), [0.66, 1, 1]) for name in palette.OFTEN}
    assert [(a, b) for a, b in combinations(palette.OFTEN, 2) if np.linalg.norm(seen[a] - seen[b]) < 0.08] == []


def test_a_plugin_from_outside_and_an_unknown_name_have_colours_of_their_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text('INFO = {"kind": "experts", "about": "mine"}')
    unknown = palette.of("mine")
    assert unknown == palette.of("mine") != palette.of("yours")
    monkeypatch.setenv(plugins.FILES, str(tmp_path / "mine.py"))
    every = {*plugins.names("experts"), *plugins.names("align")}
    assert "mine" in every
    assert len({palette.of(name) for name in every}) == len(every)
    assert palette.of("mine@2") == palette.of("mine")
    assert palette.of("auto") == palette.AUTO


def test_stage_shares_draws_each_number_of_the_table() -> None:
    rows = phases.share_rows([phase()])
    figure = plots.stage_shares(rows)
    drawn = {(t.name, y): x for t in figure.data for x, y in zip(t.x, t.y, strict=True)}
    assert drawn["w13", "decode<br>H200"] == pytest.approx(SHARES["w13"])
    assert drawn["w13", "decode<br>L40, published"] == pytest.approx(100 * 0.163 / 0.427)
    assert len(drawn) == len(rows)


def test_stage_shares_hatches_only_what_is_published() -> None:
    figure = plots.stage_shares(phases.share_rows([phase()]))
    w13 = next(t for t in figure.data if t.name == "w13")
    assert list(w13.marker.pattern.shape) == ["", "/"]


def test_stage_times_gives_each_phase_its_own_axis_and_unit() -> None:
    decode = phase().stages
    prefill = decode.assign(time_ms=100 * decode["time_ms"])
    figure = plots.stage_times({"prefill": prefill, "decode": decode})
    assert [t.xaxis for t in figure.data] == ["x", "x2"]
    assert figure.layout.xaxis.title.text == "kernel time of one layer, prefill (ms)"
    assert figure.layout.xaxis2.title.text == "kernel time of one layer, decode (µs)"
    assert list(figure.data[0].x) == pytest.approx([us / 10 for us in SHARES.values()])
    assert list(figure.data[1].x) == pytest.approx(list(SHARES.values()))


def test_timeline_puts_kernels_under_their_ranges() -> None:
    operations, ranges = phases.layer_timeline(phase())
    figure = plots.timeline(operations, ranges, title="decode")
    kernels = [t for t in figure.data if t.y[0] == "kernels"]
    w13 = next(t for t in kernels if t.name == "w13")
    around = next(t for t in figure.data if t.name == "w13" and t.y[0] == "stage")
    assert (w13.base[0], w13.x[0]) == (39, 40)
    assert (around.base[0], around.x[0]) == (39, 40)
    assert sum(len(t.x) for t in kernels) == len(operations)
    assert figure.layout.xaxis.title.text == "decode: time since the layer's first kernel (µs)"


def test_timeline_keeps_the_longest_operations_of_a_crowded_layer() -> None:
    n = plots.MAX_POINTS + 50
    operations = pd.DataFrame({"name": "k", "stage": "w13", "stream": 7, "start_us": range(n), "duration_us": range(n)})
    ranges = pd.DataFrame({"name": ["layers.0"], "stage": [None], "depth": [0], "start_us": [0.0], "end_us": [2.0 * n]})
    kernels = plots.timeline(operations, ranges).data[-1]
    assert len(kernels.x) == plots.MAX_POINTS
    assert max(kernels.x) == pytest.approx((n - 1) / 1000)  # 10 ms and more are shown in ms


@pytest.mark.parametrize("draw", ["shares", "times", "timeline"])
def test_every_axis_of_numbers_carries_its_unit(draw: str) -> None:
    given = phase()
    figure = {
        "shares": lambda: plots.stage_shares(phases.share_rows([given])),
        "times": lambda: plots.stage_times({"decode": given.stages}),
        "timeline": lambda: plots.timeline(*phases.layer_timeline(given)),
    }[draw]()
    assert figure.layout.xaxis.title.text.endswith(("(%)", "(ms)", "(µs)"))


HOSTILE = "<b>x</b>&amp;%{x}<!--<script>"
SHOWN = "&lt;b&gt;x&lt;/b&gt;&amp;amp;%&#123;x}&lt;!--&lt;script&gt;"


def test_names_reach_plotly_as_text() -> None:
    operations = pd.DataFrame(
        {"name": [HOSTILE], "stage": [HOSTILE], "stream": [7], "start_us": [0.0], "duration_us": [2.0]}
    )
    ranges = pd.DataFrame({"name": [HOSTILE], "stage": [None], "depth": [0], "start_us": [0.0], "end_us": [3.0]})
    figure = plots.timeline(operations, ranges, HOSTILE)
    text = json.dumps(figure.to_plotly_json(), default=str)
    assert "<b>" not in text
    assert "<script>" not in text
    bar = next(trace for trace in figure.data if trace.text)
    assert bar.text[0] == bar.name == SHOWN
    assert figure.data[-1].hovertext[0] == SHOWN
    assert figure.layout.xaxis.title.text.startswith(SHOWN)
    assert operations["name"][0] == HOSTILE, "the table that was given stays as it is"


def test_every_figure_takes_names_as_text() -> None:
    found = 0
    for path in sorted(Path(plots.__file__).parents[1].rglob("plots.py")):
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name[0] != "_" and "Figure" in ast.unparse(node.returns):
                assert "as_text" in [ast.unparse(d) for d in node.decorator_list], f"{path.parent.name}: {node.name}"
                found += 1
    assert found >= 15


def test_text_in_every_kind_of_column_is_escaped() -> None:
    seen = {}

    @figures.as_text
    def draw(frame: pd.DataFrame, *, names: dict[str, list[str]]) -> None:
        seen.update(frame=frame, names=names)

    frame = pd.DataFrame({"s": pd.array(["<a>", None], "string"), "n": [1, 2]}, index=["<i>", "j"])
    frame["c"] = pd.Categorical(["<z>", "<y>"], categories=["<z>", "<y>"], ordered=True)
    frame["o"] = [[("<k>", 1.0)], None]
    draw(frame, names={"<a>": ["<b>"]})
    out = seen["frame"]
    assert out["s"].tolist() == ["&lt;a&gt;", pd.NA]
    assert out["c"].cat.categories.tolist() == ["&lt;z&gt;", "&lt;y&gt;"]
    assert out["o"].tolist() == [[("&lt;k&gt;", 1.0)], None]
    assert out["n"].tolist() == [1, 2]
    assert list(out.index) == ["&lt;i&gt;", "j"]
    assert seen["names"] == {"&lt;a&gt;": ["&lt;b&gt;"]}


@pytest.mark.parametrize(
    ("values", "read"),
    [([16.7, 6000], ["10", "20", "50", "100"]), ([95, 240], ["50", "60", "80", "100"]), ([], None)],
    ids=["decades", "less-than-one", "none"],
)
def test_logarithmic_ticks_read_as_numbers(values: list[float], read: list[str] | None) -> None:
    found = figures.log_ticks(values)
    assert found.get("ticktext", [])[:4] == (read or [])
    assert len(found.get("tickvals", [])) <= figures.MOST_TICKS


def test_names_at_the_ends_of_lines_stand_apart_and_within_the_figure() -> None:
    figure = go.Figure([go.Scatter(x=[1, 10], y=[1, end], name=f"line {end}") for end in (99.0, 98.0, 97.0, 5.0)])
    figures.direct(figure, 400, 0, 100)
    heights = {a.text.split()[-1]: a.y * 3 + a.yshift for a in figure.layout.annotations}  # 300 pixels for 100
    low, *high = sorted(heights.values())
    assert low == pytest.approx(15.0), "a name alone stands at the end of its line"
    assert np.diff(high).min() >= figures.LABEL_HEIGHT - 1e-9
    assert max(high) <= 300
    assert not figure.layout.showlegend


def test_a_fused_stage_is_hatched_from_the_colours_of_its_ends() -> None:
    hatch = figures.fused("w13+act+w2")["pattern"]
    assert (hatch["bgcolor"], hatch["fgcolor"]) == (palette.STAGES["w13"], palette.STAGES["w2"])
    assert figures.fused("w13") == {"color": palette.STAGES["w13"]}
