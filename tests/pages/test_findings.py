import dataclasses
import json
from pathlib import Path

import launches_fixture
import pandas as pd
import pytest
from launches_fixture import SHARES, phase
from nsys_builder import NsysBuilder

from moe_lab import runs
from moe_lab.analysis import phases
from moe_lab.pages.layer_breakdown import findings as layer
from moe_lab.pages.show import findings, mime
from moe_lab.pages.show.findings import Finding
from moe_lab.runs.parse import parse_report

BEFORE = ("input_norm", "self_attn", "post_attention_norm", "router")


@pytest.fixture(autouse=True)
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No benchmark here measured what the GPU of the fixture can do, unless a test writes one."""
    monkeypatch.setenv("MOE_LAB_PROFILES", str(tmp_path))


def plain(found: list[Finding | None] | list[str]) -> list[str]:
    return [str(f).replace(findings.NBSP, " ") for f in found if f]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0004266, "0.000427"), (0.9996, "1.00"), (38.24, "38.2"), (999.7, "1,000"), (27624.0, "27,624")],
)
def test_number_keeps_three_significant_digits_without_exponent(value: float, text: str) -> None:
    assert findings.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.44, "0.4"), (9.96, "10"), (43.2, "43"), (99.7, "99.7"), (99.97, "> 99.9"), (100.0, "100")]
)
def test_percent_never_rounds_up_to_all(value: float, text: str) -> None:
    assert findings.percent(value) == f"{text}{findings.NBSP}%"


def test_time_takes_the_unit_in_which_it_reads_best() -> None:
    assert plain([findings.time(27.038), findings.time(0.163)]) == ["27.0 ms", "163 µs"]


def test_layer_headline_names_experts_and_attention() -> None:
    experts, attention = SHARES["w13"] + SHARES["w2"], SHARES["self_attn"]
    assert plain(layer.all_of([phase()]))[0] == (
        f"In one layer on H200, the expert GEMMs take {experts} % and attention {attention} % of 100 µs in decode."
    )


def test_a_layer_whose_experts_are_one_launch_names_only_the_stages_that_it_has(monkeypatch) -> None:
    """GIVEN align to combine in one kernel, as hopper has it for a few tokens THEN the router alone is beside it."""
    one, kept = "align+w13+act+w2+combine", [row for row in launches_fixture.LAYER if row[0] in BEFORE]
    monkeypatch.setattr(launches_fixture, "LAYER", [*kept, (one, "hopper_few", 39, 40)])
    monkeypatch.setattr(launches_fixture, "BLOCKS", {"router", one})
    given = phase()
    assert given.stages["stage"].tolist() == ["norm", "self_attn", "router", one]
    around = next(f for f in layer.all_of([given]) if f and f.about == "Around the expert GEMMs")
    assert plain([around]) == ["Around the expert GEMMs: in decode router takes 4.00 µs, 9.1 % of the MoE block."]
    assert plain([around.short]) == ["Router takes 4.00 µs of the layer in decode, beside the expert GEMMs."]


def test_layer_headline_does_not_repeat_itself_for_the_second_phase() -> None:
    headline = plain(layer.all_of([phase("prefill"), phase("decode")]))[0]
    assert headline.endswith("of 100 µs in prefill; 60 % and 22 % of 100 µs in decode.")


def test_layer_headline_counts_what_has_no_name(tmp_path: Path) -> None:
    """A model with modules only: experts as a whole are a stage, and a kernel in none of the modules is counted."""
    b = NsysBuilder()
    b.push("model.layers.0", 0, 1000)
    for number, (name, us) in enumerate([("self_attn", 24), ("mlp.gate", 2), ("mlp.experts", 67)]):
        b.push(f"model.layers.0.{name}", 100 * number + 1, 100 * number + 90)
        b.launch(100 * number + 10, number, gpu=(10**5 * number, 10**5 * number + 1000 * us))
    b.launch(900, 9, gpu=(10**6, 10**6 + 7000))
    run = phase().run
    found = phases.phase("decode", run, parse_report(b.write(tmp_path / "r.sqlite")), r"layers\.0$")
    assert dict(zip(found.stages["stage"], found.stages["pct_of_layer"].round(), strict=True)) == {
        **{"self_attn": 24, "router": 2, "experts": 67, "other": 7},
    }
    assert plain(layer.all_of([found]))[0] == (
        "In one layer on H200, the experts take 67 %, attention 24 % and what no stage names 7.0 % of 100 µs in decode."
    )
    lost = dataclasses.replace(found, stages=found.stages.assign(stage="other"))
    assert "what no stage names takes 100 %" in plain(layer.all_of([lost]))[0]


def test_layer_findings_say_launches_gaps_padding_and_floors() -> None:
    said = plain(layer.all_of([phase()]))
    # 10 kernels of 100 us within 110 us; 1280 rows computed for 16 * 8 useful ones.
    assert "Launches: one layer in decode is 10 kernels with 10.0 µs of gaps between them (9.1 % of its span)." in said
    assert "Padding to tiles: in decode they compute 1,280 rows for 128 useful ones (900 % more)." in said
    # w13: 4 * 128 * 768 * 2048 FLOP in 40 us.
    assert (
        "Speed of the expert GEMMs: in decode (80 of 128 experts hit) w13 and w2 reach 20.1 and 20.1 useful TFLOP/s "
        "and 12.6 and 12.6 TB/s of minimum traffic."
    ) in said


def test_layer_findings_rate_the_traffic_where_the_memory_is_known(tmp_path: Path) -> None:
    # w13 moves 504 MB in 40 us and w2 252 MB in 20 us: 12.59 and 12.62 TB/s, impossible on a GPU, easy to check.
    gpu = {"name": "NVIDIA H200", "memory_bandwidth_bytes_per_s": 20e12}
    said = next(s for s in plain(layer.all_of([phase(gpu=gpu)])) if s.startswith("Speed"))
    assert said.endswith("minimum traffic, 63 % and 63 % of the 20.0 TB/s that are the theoretical peak of its memory.")
    (tmp_path / "h200" / "bench").mkdir(parents=True)
    manifest = {"schema": 1, "name": "h200/bench", "gpu": gpu, "measured": {"roofs": {"read_bytes_per_s": 10e12}}}
    (tmp_path / "h200" / "bench" / "run.json").write_text(json.dumps(manifest))
    measured = dataclasses.replace(phase(gpu=gpu), known=runs.list_runs())
    said = next(s for s in plain(layer.all_of([measured])) if s.startswith("Speed"))
    assert said.endswith(
        "126 % and 126 % of the 10.0 TB/s that reading was measured to reach; over 100 % is a wrong bound."
    )


def test_layer_findings_state_the_coverage() -> None:
    said = next(s for s in plain(layer.all_of([phase()])) if s.startswith("Coverage"))
    assert said == (
        "Coverage: in decode the layer ran 2 times and holds 100 % of the kernel time in the report, "
        "100 % of it in named stages."
    )


def test_layer_findings_set_the_published_shares_beside_ours() -> None:
    said = next(s for s in plain(layer.all_of([phase()])) if s.startswith("Published profile: on 1x NVIDIA L40"))
    assert "in decode expert GEMMs 54 % (here 60 %) and attention 41 % (here 22 %)" in said
    assert said.endswith("compare shares, not times.")


def test_layer_findings_leave_out_what_a_run_does_not_say() -> None:
    said = plain(layer.all_of([phase("capture", workload=None, gpu=None)]))
    assert "on unknown GPU" in said[0]
    assert not [s for s in said if s.startswith(("Published", "Speed", "Padding"))]


def test_layer_findings_follow_the_numbers() -> None:
    given = phase()
    half = dataclasses.replace(given, stages=given.stages.assign(pct_of_layer=given.stages["pct_of_layer"] / 2))
    assert "take 30 % and attention 11 %" in plain(layer.all_of([half]))[0]


def test_show_stores_the_headline_for_the_index_card() -> None:
    bundle = findings.show(
        [Finding("Because", "a < b."), None, Finding("Second", "it is so: seen.")]
    )._repr_mimebundle_()
    stored = bundle[mime.HEADLINE]
    assert (stored["headline"], stored["findings"]) == ("Because: a < b.", ["Second: it is so: seen."])
    assert "a &lt; b" in bundle["text/html"]
    assert "<strong>Second.</strong> It is so: seen." in bundle["text/html"]
    assert bundle["text/plain"] == "Because: a < b.\n- Second: it is so: seen."
    doubt = findings.show([Finding("", "first"), findings.caution("stopped early.")])._repr_mimebundle_()
    assert '<li class="caution"><strong>Caution.</strong> Stopped early.</li>' in doubt["text/html"]


def test_a_finding_has_the_rows_it_is_rendered_from_on_the_page_and_as_data() -> None:
    rows = pd.DataFrame({"M": [16, 8192], "limiter": ["DRAM", "<b>"], "pct": pd.array([99.5, None], dtype="Float64")})
    found = Finding("Wrong bound", "it is exceeded.", findings.rows(rows, "M limiter pct lacking"), "problem")
    bundle = findings.show([Finding("", "first"), found])._repr_mimebundle_()
    assert json.loads(json.dumps(bundle[mime.HEADLINE]["found"]))[1] == {
        "about": "Wrong bound",
        "text": "it is exceeded.",
        "severity": "problem",
        "rows": [{"M": 16, "limiter": "DRAM", "pct": 99.5}, {"M": 8192, "limiter": "<b>", "pct": None}],
    }
    page = bundle["text/html"]
    assert '<li class="problem">' in page
    assert "<summary>2 rows</summary>" in page
    assert ">limited by</th>" in page, "the schema's head"
    assert "&lt;b&gt;" in page
    assert "Wrong bound" in bundle["text/plain"]


def test_layer_findings_name_what_is_a_problem_and_carry_its_rows() -> None:
    said = {f.about: f for f in layer.all_of([phase()]) if f}
    assert said["Padding to tiles"].severity == "problem", "900 % more rows, and no roof says that they are free"
    assert said["Padding to tiles"].rows["rows_padded"].tolist() == [1280]
    assert said["Launches"].severity == "normal", "the gaps are 9 % of the span"
    assert said["Coverage"].severity == "normal"
    given = phase()
    half = dataclasses.replace(given, stages=given.stages.assign(stage="other"))
    assert {f.about: f for f in layer.all_of([half]) if f}["Coverage"].severity == "caution"
    assert all(len(f.rows) for f in said.values() if f.about not in ("Caution", "Around the expert GEMMs"))
