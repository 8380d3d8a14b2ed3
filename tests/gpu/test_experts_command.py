import json

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import __main__ as command
from moe_lab.gpu.workloads.experts import parse_tile
from moe_lab.spec import models, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import Attention, Model, Router
from moe_lab.spec.problem import MoEProblem

BASE = ["experts", "--model", "tiny", "--format", "fp32", "--iterations", "1"]
QWEN = {M: MoEProblem.preset("qwen3-30b-a3b", M) for M in (16, 128, 129, 8192)}


@pytest.fixture
def run(monkeypatch, capsys, device, opened_ranges):
    """Run the command on a tiny preset; returns (exit status, JSON or None, stderr, ranges as (depth, name))."""
    tiny = Model(64, 48, 8, 2, 1, Attention("gqa", 4, 2, 16), Router(), "test")
    monkeypatch.setitem(models.MODELS, "tiny", tiny)

    def run(*arguments):
        status = command.main([*BASE, "--device", device, *arguments])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out else None, err, opened_ranges

    return run


def test_experts_command_opens_a_root_and_the_stages_around_each_call(run):
    status, result, _, opened = run("--m", "3", "5", "--tiles", "auto", "16x16x16")
    assert status == 0
    roots = [p["root"] for p in result["points"]]
    stages = ["align", "w13", "act", "w2", "combine"]
    assert opened == [pair for root in roots for pair in ((0, root), *((1, s) for s in stages))]
    fields = [ranges.parse_root(root) for root in roots]
    assert [(f["M"], f.get("tiles")) for f in fields] == [(M, t) for M in ("3", "5") for t in (None, "16x16x16")]
    assert all(f.items() >= {"phase": "experts", "backend": "fused_moe", "model": "tiny"}.items() for f in fields)


def test_experts_command_says_rows_experts_and_tiles_of_each_call(run):
    _, result, _, _ = run("--m", "5", "--tiles", "auto", "untuned")
    own, untuned = result["points"]
    assert own["problem"] | {"M": 5, "K": 64, "N": 48, "E": 8, "topk": 2} == own["problem"]
    assert own["rows_useful"] == 10
    padded = own["rows_padded_by_block_m"]
    # At most ten rows an expert: one tile of 16 or more rows each.
    assert padded == {str(m): m * own["experts_hit"] for m in (16, 32, 64, 128, 256)}
    assert untuned["tiles"]["w13"] | {"block_m": 16, "block_n": 32, "block_k": 64} == untuned["tiles"]["w13"]
    assert untuned["rows_padded"] == padded["16"]
    assert own["tiles"]["w2"]["block_n"] == 64


def test_experts_command_takes_shared_experts_as_further_ones_and_biases(run):
    """GIVEN 8 experts, 2 a token, and 3 shared ones THEN 11 and 5, of which the last 3 get every token."""
    _, result, _, opened = run("--m", "4", "--shared", "3", "--biases", "yes")
    point = result["points"][0]
    assert point["problem"].items() >= {"E": 11, "topk": 5, "shared": 3, "biases": True, "model": "tiny+3"}.items()
    assert point["rows_useful"] == 20
    assert 3 + 2 <= point["experts_hit"] <= 3 + 8
    assert ranges.parse_root(opened[0][1])["model"] == "tiny+3"


def test_experts_command_computes_the_same_with_every_tile(device):
    """GIVEN 40 rows of skewed experts THEN tiles that split rows, columns and depth unevenly agree with torch."""
    from moe_lab.gpu.routing import synthetic
    from moe_lab.spec import plugins

    p = MoEProblem(20, 64, 48, 8, 2, "fp32")
    generator = torch.Generator().manual_seed(0)
    x, w13, w2 = (torch.randn(*s, generator=generator).to(device) / 8 for s in ((20, 64), (8, 96, 64), (8, 64, 48)))
    routing = synthetic("zipf:1.5", 20, 8, 2, device=device)
    silent = ranges.marker("none")
    wanted = plugins.load("experts", "torch_loop").experts(x, w13, w2, *routing, problem=p, mark=silent)
    for text in ("16x32x16", "32x64x32x4x4x2"):
        tile = parse_tile(text, p)
        got = plugins.load("experts", "fused_moe").experts(x, w13, w2, *routing, problem=p, mark=silent, tile=tile)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "M", "sizes"),
    [
        ("untuned", 16, (16, 32, 64, 1, 4, 3)),
        ("untuned", 128, (16, 32, 64, 1, 4, 3)),
        ("untuned", 129, (64, 64, 32, 8, 4, 3)),
        ("128x256x64", 8192, (128, 256, 64, 8, 4, 3)),
        ("128x256x64x4x8", 16, (128, 256, 64, 4, 8, 3)),
    ],
)
def test_tiles_are_read_with_the_defaults_of_the_field(text, M, sizes):
    tile = parse_tile(text, QWEN[M])
    assert (tile.block_m, tile.block_n, tile.block_k, tile.group_m, tile.num_warps, tile.num_stages) == sizes


def test_options_for_amd_go_to_the_compiler_there_and_are_refused_elsewhere(monkeypatch):
    text = "128x256x64x8x8x2x2x16x2"
    with pytest.raises(UserError, match="options for AMD's GPUs"):
        parse_tile(text, QWEN[16])
    monkeypatch.setattr(torch.version, "hip", "6.4")
    given = {"waves_per_eu": 2, "matrix_instr_nonkdim": 16, "kpack": 2}
    tile = parse_tile(text, QWEN[16])
    assert tile.options() == {"num_warps": 8, "num_stages": 2} | given
    assert parse_tile("128x256x64x8x8x2", QWEN[16]).options() == {"num_warps": 8, "num_stages": 2}
    monkeypatch.setattr(torch.version, "hip", None)
    assert tile.options() == {"num_warps": 8, "num_stages": 2}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--tiles", "64x64"], "--tiles takes 'auto'"),
        (["--tiles", "64x64x32x1x4x2x2x16"], "--tiles takes 'auto'"),
        (["--tiles", "64x48x32"], "powers of two"),
        (["--tiles", "0x64x32"], "--tiles takes"),
        (["--backend", "torch_loop", "--tiles", "64x64x32"], "'torch_loop' does not take tiles"),
        (["--m", "0"], "at least one token"),
        (["--model", "llama-4-maverick", "--shared", "model"], "needs topk=1, not 2"),
        (["--format", "fp8"], "There is no format 'fp8'; choose one of"),
        (["--model", "qwen4"], "No model preset is called 'qwen4'"),
        (["--backend", "nope"], "No experts plugin is called 'nope'"),
    ],
)
def test_experts_command_refuses_what_cannot_be(run, options, sentence):
    status, _, err, _ = run("--m", "2", *options)
    assert status == 2
    assert sentence in err
