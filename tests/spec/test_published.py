from pathlib import Path

import pandas as pd
import pytest

from moe_lab.spec import published

FILES = sorted(path.stem for path in Path(published.__file__).parent.glob("*.csv"))


def test_published_shares_are_the_times_over_the_layer() -> None:
    table = published.layer_table().set_index(["phase", "name"])
    assert table.loc[("decode", "w13"), "pct_of_layer"] == pytest.approx(100 * 0.163 / 0.427)
    assert table.loc[("prefill", "self_attn"), "pct_of_layer"] == pytest.approx(42.7, abs=0.05)


def test_published_rows_are_marked_and_name_their_gpu() -> None:
    table = published.layer_table()
    assert table["published"].all()
    assert table["source"].str.contains("L40").all()
    assert published.stage_shares()["published"].all()


@pytest.mark.parametrize(("phase", "layer_ms"), [("prefill", 27.038), ("decode", 0.427)])
def test_published_stages_add_up_to_the_layer(phase: str, layer_ms: float) -> None:
    stages = published.stage_shares().query("phase == @phase")
    assert stages["time_ms"].sum() == pytest.approx(layer_ms)
    assert stages["pct_of_layer"].sum() == pytest.approx(100)
    assert (stages["time_ms"] > 0).all()


def test_published_align_figures_are_per_size_and_name_their_source() -> None:
    peers = published.align_peers().set_index(["E", "topk", "tokens"])
    assert peers.loc[(256, 8, 16384), "vllm_us"] == 87
    assert peers.loc[(128, 8, 65536), "sglang_us"] == 317
    assert pd.isna(peers.loc[(64, 6, 16384), "sgl_kernel_us"]), "not measured at that shape"
    amd = published.align_amd().set_index("kernel")
    assert amd.loc["multi-block", "active_cus"] == 66
    assert pd.isna(amd.loc["earlier count_and_sort_expert_tokens", "coalescing_pct"]), "not published"
    assert "SGLang" in published.ALIGN_AMD.setup


@pytest.mark.parametrize("name", FILES)
def test_published_file_says_where_its_figures_come_from_and_what_they_do_not_show(name: str) -> None:
    source, rows = published.source(name), published.table(name)
    assert source.label
    assert source.setup
    assert source.caveat
    assert len(rows)
    assert not any(str(column).startswith(("#", "Unnamed")) for column in rows), "every line of the head is a key"
