import shutil
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from moe_lab import cli, runs
from moe_lab.gpu import __main__ as gpu
from moe_lab.gpu import formats
from moe_lab.gpu.bench import cases, examine
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.experts import torch_loop
from moe_lab.gpu.formats import fp8_block, fp8_tensor, fp8_token, mxfp4
from moe_lab.gpu.routing import synthetic
from moe_lab.gpu.weights import expert_weights, tokens
from moe_lab.spec import formats as known
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import marker

CPU, SILENT = torch.device("cpu"), marker("none")
PROBLEM = MoEProblem(21, 160, 136, 8, 2, "fp8_block", "silu", "160x136x8x2")
SCALED = [name for name in plugins.names("formats") if known.get(name).quantised]


@pytest.mark.parametrize("name", SCALED)
def test_a_format_with_scales_has_what_its_data_say_and_comes_back(name):
    """GIVEN weights whose blocks have sizes apart WHEN they go through the format THEN no number is off by much."""
    plugin, own = plugins.load("formats", name), known.get(name)
    w = torch.randn(3, 200, 300) * torch.tensor([1.0, 1e-6, 1e4])[:, None, None]
    stored = plugin.quantise(w)
    stored_bits = 8 * stored.values.element_size() * stored.values.numel()
    assert stored_bits == w.numel() * own.weight_bits
    beside = [part for part in (stored.scales, stored.zeros, stored.matrix_scales) if part is not None]
    assert stored.shape == w.shape
    scale_bytes = sum(part.element_size() * part.numel() for part in beside)
    assert stored_bits // 8 + scale_bytes == 3 * own.weight_bytes(200, 300)
    error = (formats.dense(stored, torch.float64) - w.double()).abs().amax((1, 2)) / w.abs().amax((1, 2))
    assert bool((error <= 2.0 ** -(own.weight_bits // 2)).all())
    torch.testing.assert_close(formats.dense(stored[1], torch.float64), formats.dense(stored, torch.float64)[1])
    if own.activation_block:
        x = torch.randn(9, 300, dtype=torch.bfloat16)
        if own.activation_block[0] == 1:
            x *= torch.logspace(-6, 6, 9)[:, None].bfloat16()
        kept = plugin.quantise_activations(x)
        assert kept.values.numel() * kept.values.element_size() + 4 * kept.scales.numel() == own.activation_bytes(
            9, 300
        )
        to = x.double().abs().amax(1) if own.even_steps else x.double().square().mean(1).sqrt()
        rms = (formats.dense(kept, torch.float64) - x.double()).square().mean(1).sqrt() / to
        assert bool((rms <= own.activation_roundoff).all())


def test_fp8_block_has_a_scale_a_block_and_the_largest_becomes_448():
    w = torch.ones(1, 130, 129)
    w[0, 3, 4], w[0, 128:, 128] = -8.0, 0.5
    stored = fp8_block.quantise(w)
    assert stored.values.dtype == torch.float8_e4m3fn
    torch.testing.assert_close(stored.scales[0], torch.tensor([[8.0, 1.0], [1.0, 0.5]]) / 448)
    assert float(stored.values[0, 3, 4]) == -448
    torch.testing.assert_close(formats.dense(stored, torch.float32), w)


def test_fp8_token_has_a_scale_a_row_and_fp8_tensor_one_a_matrix():
    w = torch.ones(2, 3, 130)
    w[0, 1, 4], w[1] = -8.0, 0.5
    by_row, by_matrix = fp8_token.quantise(w), fp8_tensor.quantise(w)
    torch.testing.assert_close(by_row.scales.squeeze(2), torch.tensor([[1.0, 8.0, 1.0], [0.5, 0.5, 0.5]]) / 448)
    torch.testing.assert_close(by_matrix.scales.flatten(), torch.tensor([8.0, 0.5]) / 448)
    assert float(by_row.values[0, 1, 4]) == float(by_matrix.values[0, 1, 4]) == -448
    for stored in (by_row, by_matrix):
        torch.testing.assert_close(formats.dense(stored, torch.float32), w)
    assert fp8_token.quantise_activations(w[0]).scales.shape == (3, 1)
    assert fp8_tensor.quantise_activations(w[0]).scales.shape == (1, 1)


def test_int4_stores_the_even_number_low_and_a_zero_is_8_or_the_groups_own():
    """GIVEN rows that 16 steps of 1 reach WHEN stored THEN codes, scales and zero points are those of a pencil."""
    w = torch.zeros(2, 130)
    w[0, :15] = torch.arange(-7.0, 8)
    w[1, :2], w[1, 128:] = torch.tensor([-5.0, 10.0]), torch.tensor([3.0, 15.0])
    middle, own = (plugins.load("formats", f"int4_w4a16{end}").quantise(w) for end in ("", "_zeros"))
    assert middle.values[0, :3].tolist() == [0x21, 0x43, 0x65]
    assert (middle.scales[0].tolist(), middle.zeros) == ([1, 1], None)
    assert own.values[1, [0, 64]].tolist() == [0xF0, 0xF3]
    assert (own.scales[1].tolist(), own.zeros[1].tolist()) == ([1, 1], [5, 0])
    torch.testing.assert_close(formats.dense(middle, torch.float64)[0], w[0].double())
    torch.testing.assert_close(formats.dense(own, torch.float64)[1], w[1].double())


def test_mxfp4_has_powers_of_two_for_32_numbers_and_rounds_ties_to_the_even_code():
    w = torch.zeros(1, 34)
    w[0, :16] = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -6, 0.25, 0.75, 1.75, 2.5, 5, 7.5])
    w[0, 32:] = torch.tensor([2.0**-9, -(2.0**-10)])
    stored = mxfp4.quantise(w)
    assert stored.values[0, :8].tolist() == [0x10, 0x32, 0x54, 0x76, 0xF9, 0x20, 0x44, 0x76]
    assert (stored.scales.tolist(), stored.values[0, 16]) == ([[127, 127 - 11]], 0xC6)
    assert formats.dense(stored, torch.float32)[0, 32:].tolist() == w[0, 32:].tolist()


def test_odd_columns_are_refused_where_two_numbers_share_a_byte():
    with pytest.raises(UserError, match="so K and N must be even, not 33"):
        mxfp4.quantise(torch.ones(2, 33))


def test_the_oracle_rounds_rows_of_all_experts_by_one_scale_where_the_format_has_one():
    """GIVEN a token whose hidden features are large WHEN another goes to another expert THEN its rounding feels it."""
    problem = MoEProblem(2, 128, 128, 2, 1, "fp8_tensor")
    w13, w2 = (formats.quantise(torch.randn(*size) / 11, "fp8_tensor") for size in ((2, 256, 128), (2, 128, 128)))
    x, ids = torch.randn(2, 128) * torch.tensor([[1.0], [8.0]]), torch.tensor([[0], [1]], dtype=torch.int32)
    weights = torch.ones(2, 1)
    y = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
    alone = torch_loop.experts(x[:1], w13, w2, weights[:1], ids[:1], problem=replace(problem, M=1), mark=SILENT)
    assert not torch.equal(y[:1], alone)
    large = torch_loop.experts(x * 2, w13, w2, weights, ids, problem=problem, mark=SILENT)
    assert not torch.equal(y, large)


def test_fp8_block_of_zeros_and_of_no_rows_is_zeros_and_no_rows():
    assert formats.dense(fp8_block.quantise(torch.zeros(2, 130, 5)), torch.float32).eq(0).all()
    assert fp8_block.quantise_activations(torch.zeros(0, 256)).scales.shape == (0, 2)


def test_a_format_without_scales_is_the_tensor_itself():
    w = torch.randn(2, 3, 4)
    assert formats.quantise(w, "fp32") is w
    assert formats.rounding("bf16")(w) is w


def made(problem=PROBLEM):
    plain = expert_weights(problem, CPU, 0)
    routing = synthetic("uniform", problem.M, problem.E, problem.topk, seed=0)
    x = tokens(problem, CPU, 0)
    stored = [formats.quantise(w, problem.format) for w in plain]
    return Inputs(x, *stored, *routing), Inputs(x, *plain, *routing)


def test_the_oracle_multiplies_by_the_dequantised_weights_in_fp64():
    inputs, plain = made()
    numbers = [formats.dense(w, torch.float64) for w in (inputs.w13, inputs.w2)]
    dense = inputs._replace(w13=numbers[0], w2=numbers[1])
    oracle = Oracle(inputs, PROBLEM, plain)
    same = torch_loop.moe(*dense, problem=PROBLEM, mark=SILENT, dtype=torch.float64).bfloat16()
    found = oracle.errors(same)
    assert found.rms_rel < 2**-8, "only the result was rounded"
    assert 0.01 < found.plain_rms_rel < 0.06, "and what e4m3 weights cost"


def test_a_backend_that_quantises_activations_is_right_and_one_that_forgets_a_scale_is_not():
    inputs, plain = made()
    oracle = Oracle(inputs, PROBLEM, plain)
    y = torch_loop.experts(*inputs, problem=PROBLEM, mark=SILENT)
    found = oracle.errors(y)
    assert oracle.right(found)
    assert 0.005 < found.rms_rel < found.plain_rms_rel < 0.08
    wrong = fp8_block.Quantised("fp8_block", inputs.w2.values, inputs.w2.scales.clone())
    wrong.scales[:, 0, 1] *= 3
    y = torch_loop.experts(*inputs._replace(w2=wrong), problem=PROBLEM, mark=SILENT)
    assert not oracle.right(oracle.errors(y))


def test_rows_in_fp8_block_state_both_errors_and_those_who_do_not_take_it_say_so(interpreter):
    given = cases.ExpertsCase(PROBLEM)
    plan = examine.Plan(["torch_loop", "fused_moe"], ("full",), ("eager",), 2)
    found = cases.experts_rows(given, plan, examine.Weights(PROBLEM, CPU, 0), device=CPU)
    right, refused = found
    assert (right["format"], right["dtype"], right["correct"], right["error"]) == ("fp8_block", "bf16", True, None)
    assert 0.005 < right["error_rms_rel"] <= right["bound_rms_rel"] < 0.2
    assert right["error_rms_rel"] < right["error_vs_bf16_rms_rel"] < 0.08
    assert right["minimum_bytes"] == PROBLEM.minimum_bytes(right["experts_hit"])
    assert refused["error"] == "fused_moe does not take fp8_block here, only: fp32, fp16, bf16."
    assert refused["error_vs_bf16_rms_rel"] is None


def test_without_scales_both_errors_of_a_row_are_one(interpreter):
    problem = MoEProblem(5, 32, 16, 8, 2, "fp32", "silu", "32x16x8x2")
    plan = examine.Plan(["torch_loop"], ("full",), ("eager",), 2)
    (row,) = cases.experts_rows(cases.ExpertsCase(problem), plan, examine.Weights(problem, CPU, 0), device=CPU)
    assert row["error_vs_bf16_rms_rel"] == row["error_rms_rel"] > 0


def test_a_format_is_one_file_and_a_backend_gets_what_it_made(tmp_path, monkeypatch):
    """GIVEN one file with a format of halves WHEN torch_loop runs THEN it multiplies by what the file dequantises."""
    folder = tmp_path / "gpu" / "formats"
    shutil.copytree(plugins.PACKAGE / "gpu" / "formats", folder)
    (folder / "halves.py").write_text(
        'INFO = {"about": "x", "dtype": "fp32", "weight_bits": 32, "activation_bits": 32, "weight_block": (1, 1)}\n'
        "from moe_lab.gpu.formats import Quantised\n"
        'def quantise(w): return Quantised("halves", w, w.new_full(w.shape[:1], 0.5))\n'
        "def dequantise(w, dtype): return w.values.to(dtype) * w.scales\n"
    )
    monkeypatch.setattr(plugins, "PACKAGE", tmp_path)
    monkeypatch.setattr(formats, "__path__", [str(folder)])
    problem = MoEProblem(5, 32, 16, 8, 2, "halves")
    inputs, plain = made(problem)
    got = torch_loop.experts(*inputs, problem=problem, mark=SILENT)
    half = plain._replace(w13=plain.w13 / 2, w2=plain.w2 / 2)
    torch.testing.assert_close(got, torch_loop.experts(*half, problem=replace(problem, format="fp32"), mark=SILENT))


def test_bench_experts_in_fp8_block_is_a_run_of_its_own_format(tmp_path, capsys):
    """GIVEN the command of the issue on a CPU WHEN it ran THEN its rows say the format and what it costs."""
    argv = ["bench", "experts", "--device", "cpu", "--format", "fp8_block", "--backends", "torch_loop", "--m", "1,5"]
    argv += ["--model", "160x136x8x2", "--parts", "full", "--repetitions", "2", "--name", "x"]
    assert cli.main([*argv, "--profiles", str(tmp_path)]) == 0
    run = runs.load("x", root=tmp_path)
    rows = run.rows()
    assert rows["format"].tolist() == ["fp8_block"] * 2
    assert (rows["median_us"] > 0).all()
    assert (rows["error_vs_bf16_rms_rel"] > rows["error_rms_rel"]).all()


@pytest.mark.parametrize("command", ["bench-experts", "tune", "experts"])
def test_unknown_formats_are_refused_by_every_command(command, tmp_path, capsys):
    out = ["--out", str(tmp_path / "x")] if command != "experts" else []
    assert gpu.main([command, *out, "--device", "cpu", "--format", "fp7"]) == 2
    assert f"There is no format 'fp7'; choose one of: {', '.join(plugins.names('formats'))}." in capsys.readouterr().err
