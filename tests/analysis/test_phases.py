from pathlib import Path
from typing import Any

import pytest
from launches_fixture import MANIFEST, SHARES, launches, phase
from nsys_builder import NsysBuilder

from moe_lab import runs
from moe_lab.analysis import phases
from moe_lab.analysis.breakdown import breakdown
from moe_lab.analysis.coverage import coverage
from moe_lab.pages import load
from moe_lab.runs import capture
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError


def test_stages_add_up_to_the_layer_and_agree_with_the_coverage() -> None:
    given = phase()
    assert dict(zip(given.stages["stage"], given.stages["pct_of_layer"], strict=True)) == pytest.approx(SHARES)
    assert given.stages["time_ms"].sum() == pytest.approx(given.layer_ms)
    named = given.stages.query("stage != 'other'")["pct_of_layer"].sum()
    assert named == pytest.approx(coverage(given.launches, given.layer_range).in_stage_pct)


def test_stages_show_what_no_stage_claims_as_other() -> None:
    given = phase()
    without_w2 = given.ranges[given.ranges["name"] != "w2"]
    other = phases.stages(without_w2).set_index("stage").loc["other"]
    assert other["pct_of_layer"] == pytest.approx(SHARES["w2"])
    assert other["time_ms"] == pytest.approx(0.020)


def test_beside_published_joins_by_range_and_leaves_the_rest_na() -> None:
    table = phases.beside_published(phase()).set_index("name")
    assert table.loc["layers.0", "published_ms"] == 0.427
    assert table.loc["w2", "published_pct"] == pytest.approx(100 * 0.068 / 0.427)
    assert table["published_ms"].isna()["router"]


@pytest.mark.parametrize(
    "given",
    [phase("prefill-chunked"), phase(workload={"model": "deepseek-v3"}), phase(layer_range="^mlp$")],
    ids=["another phase", "another model", "no decoder layer"],
)
def test_published_figures_stay_away_from_what_they_do_not_describe(given: phases.Phase) -> None:
    assert phases.beside_published(given)["published_ms"].isna().all()
    assert not phases.share_rows([given])["published"].any()


def test_part_is_the_layer_or_the_name_of_a_part_of_it() -> None:
    assert phase().part == "layer"
    assert phase(layer_range="^mlp$").part == "mlp"


def test_load_phases_without_any_run_says_what_to_give() -> None:
    with pytest.raises(UserError, match="prefill_run, decode_run"):
        load.layers({"prefill": "", "decode": ""}, "layers")


class FixtureRun:
    """A run that needs no folder."""

    manifest = MANIFEST

    def launches(self) -> Any:
        return launches()


def test_load_phases_captures_the_command_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(capture, "capture", lambda profiler, command, name: asked.append(list(command)) or FixtureRun())
    found = load.layers({"prefill": "not/looked/at"}, r"layers\.0$", "python -m x --name 'a b'")
    assert asked == [["python", "-m", "x", "--name", "a b"]]
    assert [p.name for p in found] == ["decode"]


def test_load_phases_refuses_a_range_that_is_not_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load.runs, "open", lambda name, make: runs.Opened(FixtureRun()))
    with pytest.raises(UserError, match=r"matches 2 ranges .*; make it match one layer"):
        load.layers({"decode": "tiny"}, "^(self_attn|mlp)$")


def test_layer_timeline_gives_every_operation_its_stage() -> None:
    operations, spans = phases.layer_timeline(phase())
    in_us = operations.groupby("stage")["duration_us"].sum()
    assert dict(in_us) == pytest.approx(SHARES)
    assert spans.set_index("name").loc["post_attention_norm", "stage"] == "norm"


def test_stages_inside_of_experts_say_more_than_experts(tmp_path: Path) -> None:
    """GIVEN experts with w13 inside and a kernel beside it THEN w13 is the stage and the rest has no name."""
    b = NsysBuilder()
    b.push("layers.0", 0, 1000)
    b.push("mlp.experts", 10, 500)
    b.push("w13", 20, 100)
    b.launch(30, 1, gpu=(0, 3000))
    b.launch(200, 2, gpu=(5000, 6000))
    table = breakdown(parse_report(b.write(tmp_path / "r.sqlite")), r"layers\.0$")
    assert phases.stages(table)[["stage", "time_ms"]].values.tolist() == [["w13", 0.003], ["other", 0.001]]
