"""Roles of kernels that no range marks: by name, by order, and without a single range."""

import numpy as np
import pandas as pd
import pytest
from checkout import REPO
from nsys_builder import NsysBuilder
from nsys_runs import real

from moe_lab import cli
from moe_lab.analysis import roles
from moe_lab.analysis.breakdown import breakdown
from moe_lab.analysis.kernels import stage_column, sums
from moe_lab.pages.api import load as load_run
from moe_lab.runs.attribution.tree import build
from moe_lab.runs.parse import parse_report
from moe_lab.runs.parse._facts import short_name
from moe_lab.spec.errors import UserError
from moe_lab.spec.inductor import operators
from moe_lab.spec.launches import RANGE_COLUMNS, Launches, tidy
from moe_lab.spec.ranges import STAGES
from moe_lab.spec.roles import Rule, load

# The kernels of one fused MoE in launch order, with the role that each has.
VLLM = [
    ("nvjet_tst_64x8_TNT", "gemm"),
    ("topkGatingSoftmax", "router"),
    ("moe_align_block_size_kernel", "align"),
    ("count_and_sort_expert_tokens_kernel", "align"),
    ("fused_moe_kernel", "w13"),
    ("act_and_mul_kernel", "act"),
    ("fused_moe_kernel", "w2"),
    ("moe_sum_kernel", "combine"),
]
SGLANG = [
    ("nvjet_tst_64x8_TNT", "gemm"),
    ("topk_softmax", "router"),
    ("moe_align_block_size_kernel", "align"),
    ("count_and_sort_expert_tokens_kernel", "align"),
    ("per_token_group_quant_8bit_kernel", "quant"),
    ("fused_moe_kernel", "w13"),
    ("act_and_mul_kernel", "act"),
    ("per_token_group_quant_8bit_kernel", "quant"),
    ("fused_moe_kernel", "w2"),
    ("_moe_sum_reduce_kernel", "combine"),
]
US = 1000  # ns


def engine(path, kernels, *, layers=2, mlp="model.layers.{}.mlp", again=1):
    """Write layers of attention and MoE; kernel i of an MoE runs for i + 1 us, the second layer first in the file."""
    b = NsysBuilder()
    correlation = 0
    for layer in reversed(range(layers)):
        at = 100_000 * (layer + 1)
        b.push(f"model.layers.{layer}.self_attn", at, at + 1000)
        correlation += 1
        b.launch(at + 10, correlation, gpu=(at * 10, at * 10 + US), name="fused_moe_kernel")  # a trap: not in mlp
        b.push(mlp.format(layer), at + 2000, at + 90_000)
        gpu = at * 10 + 10 * US
        for number, (name, _) in enumerate(kernels * again):
            correlation += 1
            length = (number % len(kernels) + 1) * US
            b.launch(at + 3000 + 10 * number, correlation, gpu=(gpu, gpu + length), name=name)
            gpu += length
    return b.write(path)


def stages(table, mlp):
    below = table[table["path"].str.startswith(f"{mlp}/")]
    return {row["name"]: (row["kernels"], round(row["kernel_sum_ms"] * 1000)) for _, row in below.iterrows()}


@pytest.mark.parametrize("kernels", [VLLM, SGLANG], ids=["vllm", "sglang"])
def test_kernels_of_an_engine_get_their_stages(kernels, tmp_path):
    launches = parse_report(engine(tmp_path / "e.sqlite", kernels))
    expected = {}
    for number, (_, stage) in enumerate(kernels):
        if stage:
            count, total = expected.get(stage, (0, 0))
            expected[stage] = (count + 1, total + number + 1)
    table = breakdown(launches, roles=True)
    for layer in (0, 1):
        assert stages(table, f"model.layers.{layer}.mlp") == expected
    mlp = table[table["path"] == "model.layers.0.mlp"].iloc[0]
    assert mlp["kernels"] == len(kernels), "the range itself keeps all of its kernels"
    assert not stages(breakdown(launches), "model.layers.0.mlp"), "off by default"
    assert not stages(table, "model.layers.0.self_attn"), "the same kernel name outside of mlp has no role"


def test_roles_are_told_in_the_warnings_and_marked_synthetic(tmp_path):
    launches = roles.apply(parse_report(engine(tmp_path / "e.sqlite", VLLM)))
    assert launches.meta["warnings"][-1].startswith(
        "16 of 18 kernels (97.30 % of their time) have their role by name and order, not by a range; 2 (2.70 %) lie "
        "in a stage, 0 (0.00 %) have neither."
    )
    made = launches.ranges[launches.ranges["synthetic"]]
    assert set(made["name"]) == {"gemm", "router", "align", "w13", "act", "w2", "combine"}
    assert made["start_ns"].isna().all()
    assert (made["depth"] == 1).all()


def test_batch_split_in_two_gives_w13_and_w2_twice(tmp_path):
    """vLLM runs large batches in chunks: align, w13, act, w2, combine, and again."""
    chunk = VLLM[2:]
    table = breakdown(parse_report(engine(tmp_path / "e.sqlite", chunk, again=2)), roles=True)
    found = stages(table, "model.layers.0.mlp")
    assert found["w13"] == (2, 2 * 3)
    assert found["w2"] == (2, 2 * 5)


def test_order_is_that_of_time_not_of_the_file(tmp_path):
    """GIVEN two fused kernels whose rows are swapped in the report THEN the earlier one is w13."""
    b = NsysBuilder()
    b.push("mlp", 100, 900)
    b.call(110, 112, 1)
    b.call(120, 122, 2)
    b.kernel(5000, 5007, 2, name="fused_moe_kernel")
    b.kernel(4000, 4003, 1, name="fused_moe_kernel")
    table = breakdown(parse_report(b.write(tmp_path / "e.sqlite")), roles=True)
    assert table.set_index("path").loc[["mlp/w13", "mlp/w2"], "total_kernel_sum_ms"].tolist() == [3e-6, 7e-6]


def test_ranges_of_the_engine_win_over_rules(tmp_path):
    """A fused kernel in a range called w2 is w2, and is not counted: the next one outside is the first."""
    b = NsysBuilder()
    b.push("mlp", 100, 900)
    b.push("w2", 100, 200)
    b.launch(110, 1, gpu=(1000, 1010), name="fused_moe_kernel")
    b.launch(310, 2, gpu=(2000, 2010), name="fused_moe_kernel")
    table = breakdown(parse_report(b.write(tmp_path / "e.sqlite")), roles=True)
    assert table["path"].tolist()[:3] == ["mlp", "mlp/w2", "mlp/w13"]


def test_modules_inside_mlp_keep_their_place_and_count_on_their_own(tmp_path):
    """GIVEN mlp > experts THEN the fused kernels of experts are its children, and a role below mlp stays there."""
    b = NsysBuilder()
    b.push("mlp", 100, 900)
    b.push("mlp.experts", 300, 800)
    b.launch(110, 1, gpu=(1000, 1010), name="topkGatingSoftmax")
    b.launch(310, 2, gpu=(2000, 2010), name="fused_moe_kernel")
    b.launch(410, 3, gpu=(3000, 3010), name="fused_moe_kernel")
    table = breakdown(parse_report(b.write(tmp_path / "e.sqlite")), roles=True)
    assert table["path"].tolist()[:-1] == [
        *("mlp", "mlp/router", "mlp/mlp.experts", "mlp/mlp.experts/w13", "mlp/mlp.experts/w2"),
    ]


def test_own_rules_replace_the_built_in_ones(tmp_path):
    report = engine(tmp_path / "e.sqlite", VLLM)
    own = tmp_path / "rules.yaml"
    own.write_text(
        "- {range: 'mlp$', kernel: '^nvjet', role: router}\n- {range: 'mlp$', kernel: fused, role: w13+act, nth: 1}\n"
    )
    table = breakdown(parse_report(report), roles=load(own))
    assert stages(table, "model.layers.0.mlp") == {"router": (1, 1), "w13+act": (1, 5)}


def test_first_rule_that_fits_counts(tmp_path):
    launches = parse_report(engine(tmp_path / "e.sqlite", VLLM))
    rules = [Rule("", "mlp$", "^fused", "w13", 1), Rule("", "mlp$", "fused", "w2")]
    found = stages(breakdown(launches, roles=rules), "model.layers.0.mlp")
    assert found == {"w13": (1, 5), "w2": (1, 7)}


def test_report_without_a_match_stays_as_it_is(tmp_path):
    launches = parse_report(engine(tmp_path / "e.sqlite", VLLM))
    found = roles.apply(launches, [Rule("", "no such range", "fused", "w13")])
    assert found.table is launches.table
    assert found.meta["warnings"][-1].startswith(
        "0 of 18 kernels (0.00 % of their time) have their role by name and order"
    )
    b = NsysBuilder()
    b.kernel(1, 2, None, name="fused_moe_kernel")
    bare = parse_report(b.write(tmp_path / "bare.sqlite"))
    assert roles.apply(bare, [Rule("", "mlp", "fused", "w13")]).meta["warnings"][-1].startswith("0 of 1 kernels (")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1", "must hold a list of rules"),
        ("- {range: a}", "Rule 1 in r.yaml needs kernel or full, and role"),
        ("- {range: a, kernel: b, role: w13, colour: red}", "needs kernel or full, and role"),
        ("- {range: a, kernel: b, role: gemm1}", "has the role 'gemm1'; use one of router"),
        ("- {range: a, kernel: '(', role: w13}", "not a valid regular expression"),
        ("- {range: a, kernel: b, role: w13, nth: 0}", "must be at least 1"),
        ("- {range: a, kernel: b, role: w13, of: 2}", "needs an nth"),
        ("[", "cannot be read"),
        ("- {range: 5, kernel: b, role: w13}", "'5' is not text; put it in quotes"),
        ("- {range: a, kernel: b, role: [w13]}", "is not text"),
        ("- {range: a, kernel: b, role: w13, beside: 2020-01-01}", "is not text"),
        ("- {range: 2020-99-99, kernel: b, role: w13}", "month must be in 1..12"),
        ("[" * 100_000, "cannot be read as rules for roles"),
        ("- {range: a, kernel: b, role: w13, nth: 1" + "0" * 400 + "}", "does not fit into 64 bits"),
    ],
)
def test_mistake_in_a_rule_is_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load(path)


def test_fused_gemms_of_gpt_oss_have_their_stages_in_a_replayed_graph_without_ranges_of_the_experts(tmp_path):
    """The one with the activation in it is w13, its neighbour w2, in whatever order the trace begins."""
    b = NsysBuilder()
    b.push("GptOssForCausalLM_0", 100, 900)
    for number, name in enumerate(("_matmul_ogs_NNT_bf16", "_matmul_ogs_NNT_bf16_swiglu", "_p_matmul_ogs_NNT_bf16")):
        b.launch(110 + number * 10, number + 1, gpu=(1000 * number, 1000 * number + 10 + number), name=name)
    b.push("other", 1000, 1900)  # no activation beside it: it may be either
    b.launch(1010, 9, gpu=(9000, 9050), name="_matmul_ogs_NNT_bf16")
    launches = roles.apply(parse_report(b.write(tmp_path / "e.sqlite")))
    assert launches.ranges.loc[launches.table["range_id"], "name"].tolist() == ["w2", "w13", "w2", "experts"]


def test_command_line_says_that_no_rule_fits(tmp_path, capsys):
    report = engine(tmp_path / "e.sqlite", VLLM)
    own = tmp_path / "rules.yaml"
    own.write_text("- {range: no such range, kernel: fused, role: w13}\n")
    assert cli.main(["breakdown", str(report), "--roles", str(own)]) == 0
    assert "note: 0 of 18 kernels (0.00 % of their time) have their role by name" in capsys.readouterr().err


def test_command_line_shows_roles_and_says_where_they_come_from(tmp_path, capsys):
    report = engine(tmp_path / "e.sqlite", VLLM)
    assert cli.main(["breakdown", str(report), "--roles", "auto", "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert "model.layers.0.mlp/w13,w13,1,1,1,0.005," in said.out
    assert "note: 16 of 18 kernels (97.30 % of their time) have their role by name" in said.err


def bare(tmp_path, *names, stream=7, file="bare.sqlite"):
    """Return kernels of these names, one after the other without any range; the i-th takes i + 1 us."""
    b = NsysBuilder()
    for number, name in enumerate(names):
        b.launch(number, number, gpu=(10**5 * number, 10**5 * number + (number + 1) * US), name=name)
    return parse_report(b.write(tmp_path / file))


def test_a_report_without_a_range_is_broken_down_by_role(tmp_path):
    launches = bare(tmp_path, "rms_norm_kernel", "flash_fwd_kernel", "a_kernel_of_nobody", "rms_norm_kernel")
    table = breakdown(launches)
    shown = table[["name", "depth", "instances", "kernels", "total_kernel_sum_ms"]].astype(object)
    assert shown.where(shown.notna(), None).values.tolist() == [
        ["norm", 0, 1, 2, 0.005],
        ["attention", 0, 1, 1, 0.002],
        ["(unattributed)", 0, None, 1, 0.003],
    ]
    assert "3 of 4 kernels (70.00 % of their time) have their role by name" in table.attrs["notes"][-1]
    covered = table.attrs["coverage"]
    assert (covered["in_range_pct"], covered["in_root_pct"], covered["by_name_pct"]) == (0, 0, 70)
    assert covered["in_stage_pct"] is None
    assert breakdown(launches, roles=False)["name"].tolist() == ["(unattributed)"]


def test_kernels_of_torch_compile_list_their_operators_and_what_is_not_known_is_said(tmp_path, capsys):
    norm, put = "triton_red_fused__to_copy__unsafe_view_add_mean_mul_rsqrt_7", "triton_poi_fused_index_put_new_zeros_12"
    launches = bare(tmp_path, norm, put, "fused_moe_kernel", "triton_", norm)
    summed = sums(launches, ["role", "operators"])[["role", "operators", "launches"]].astype(object)
    assert summed.where(summed.notna(), None).values.tolist() == [
        ["norm", "_to_copy, _unsafe_view, add, mean, mul, rsqrt", 2],
        ["elementwise", None, 1],
        ["experts", None, 1],
        ["index", "index_put, new_zeros", 1],
    ]
    notes = breakdown(launches).attrs["notes"]
    assert notes[-1].startswith("3 kernels (53.33 % of the time) are of torch.compile")
    assert cli.main(["kernels", str(tmp_path / "bare.sqlite"), "--by", "operators"]) == 0
    assert "3 of 5 kernels (53.33 % of their time) list operators in their names" in capsys.readouterr().err
    assert operators("triton_poi_fused_my_engines_add_0") == ("my", "engines", "add"), "split where nothing is known"
    assert operators("model_triton_tem_fused__grouped_mm_1") == ("_grouped_mm",)


def test_a_report_without_a_known_kernel_says_so(tmp_path):
    table = breakdown(bare(tmp_path, "a_kernel_of_nobody"))
    assert table["name"].tolist() == ["(unattributed)"]
    assert table.attrs["notes"][-1].startswith("0 of 1 kernels (0.00 % of their time) have their role by name")


def told(launches):
    return sums(launches, ["role", "name"]).set_index("name")["role"].to_dict()


def test_products_of_experts_are_told_by_their_neighbours_on_the_stream(tmp_path):
    """An activation lies between w13 and w2; a shared expert before them does not mislead."""
    names = ["nvjet_a", "act_and_mul_kernel", "nvjet_b", "fused_moe_kernel", "act_and_mul_kernel", "fused_moe_kernel"]
    launches = bare(tmp_path, *names, "moe_sum_kernel")
    table = breakdown(launches).set_index("name")["total_kernel_sum_ms"]
    assert (table["w13"], table["w2"], table["gemm"]) == (0.004, 0.006, 0.004)


def test_products_with_the_activation_inside_are_told_by_what_follows(tmp_path):
    launches = bare(tmp_path, "moe_align_block_size_kernel", "hopper_moe", "grouped_gemm_kernel", "combine_kernel")
    assert (told(launches)["hopper_moe"], told(launches)["grouped_gemm_kernel"]) == ("w13", "w2")


def test_all_experts_in_one_launch_are_neither_w13_nor_w2(tmp_path):
    launches = bare(tmp_path, "moe_align_block_size_kernel", "hopper_moe", "combine_kernel")
    assert told(launches)["hopper_moe"] == "experts"
    again = bare(tmp_path, *["rms_norm_kernel", "router_kernel", "hopper_few"] * 3, file="few.sqlite")
    assert told(again)["hopper_few"] == "experts", "which no combine follows"


GROUPED = (
    "void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x<cutlass::gemm::kernel::GemmUniversal<"
)
GROUPED += "cutlass::gemm::GroupProblemShape<cute::tuple<int, int, int>>>>>(x)"
ATEN = "void at::native::"
TRANSFORMERS = [  # experts of transformers, on torch's grouped_mm
    ("void at_cuda_detail::cub::DeviceRadixSortOnesweepKernel<x>(x)", "sort"),
    (f"{ATEN}vectorized_gather_kernel<16, long>(x)", "index"),
    ("void at::cuda::kernelHistogram1D<int, int, long, 1, 2, -1>(x)", "reduce"),
    ("void at_cuda_detail::cub::DeviceScanKernel<x>(x)", "reduce"),
    ("void at::cuda::detail::prepare_grouped_gemm_data<c10::BFloat16>(x)", "index"),
    (GROUPED, "w13"),
    (f"{ATEN}vectorized_elementwise_kernel<4, at::native::silu_kernel(x)::{{lambda()#1}}>(int)", "act"),
    (
        f"{ATEN}elementwise_kernel<128, 4, at::native::BinaryFunctor<x, MulFunctor<float>>>(int)",
        "elementwise",
    ),
    ("void at::cuda::detail::prepare_grouped_gemm_data<c10::BFloat16>(x)", "index"),
    (GROUPED, "w2"),
    (f"{ATEN}indexFuncLargeIndex<c10::BFloat16, long, unsigned int, 2, 2, -2, true>(x)", "index"),
    (f"{ATEN}reduce_kernel<512, 1, at::native::ReduceOp<x>>(x)", "reduce"),
]


@pytest.mark.parametrize("marked", [True, False], ids=["mlp.experts", "no range"])
def test_roles_reach_into_experts_of_transformers_and_do_without_ranges(marked, tmp_path):
    b = NsysBuilder()
    if marked:
        b.push("model.layers.0.mlp.experts", 0, 1000)
    for number, (name, _) in enumerate(TRANSFORMERS):
        b.launch(number + 1, number, gpu=(number * US, (number + 1) * US), name=short_name(name))
    launches = parse_report(b.write(tmp_path / "r.sqlite"))
    launches.table["name_full"] = [name for name, _ in TRANSFORMERS]
    role = roles.column(launches, build(launches))
    assert role.tolist() == [role for _, role in TRANSFORMERS]


def test_two_products_after_the_sort_are_w13_and_w2_whatever_follows(tmp_path):
    """AITER: the activation is in the first, the sum in the second, and nothing says so."""
    names = ["MoeSortingKernel", "kernel_moe_gemm", "dynamic_per_group_scaled_quant_kernel", "kernel_moe_gemm_2lds"]
    launches = bare(tmp_path, *names, "add_rmsnorm_quant_kernel")
    assert (told(launches)["kernel_moe_gemm"], told(launches)["kernel_moe_gemm_2lds"]) == ("w13", "w2")


def test_products_in_a_row_are_not_told_by_guessing(tmp_path):
    """A capture of products only: three, and nothing beside them."""
    launches = bare(tmp_path, "MoeSortingKernel", "kernel_moe_gemm", "fused_moe_kernel", "kernel_moe_gemm_2lds")
    assert set(sums(launches, "role")["role"]) == {"align", "experts"}


def test_one_product_alone_in_its_range_is_not_told_by_its_place(tmp_path):
    b = NsysBuilder()
    b.push("mlp", 0, 100)
    b.launch(1, 1, gpu=(0, US), name="hopper_moe")
    assert told(parse_report(b.write(tmp_path / "r.sqlite"))) == {"hopper_moe": "experts"}


@pytest.mark.parametrize(("cast", "suffix"), [("", ""), ("(unsigned int)", ""), ("", "u")])
def test_products_are_told_by_the_sizes_in_their_names(cast, suffix, tmp_path):
    """2N x K beside K x N, in the names of a report where nothing lies between them."""
    sizes = {"up": (1536, 2048), "down": (2048, 768), "dense": (4096, 2048)}
    launches = bare(tmp_path, *sizes)
    full = []
    for name, (n, k) in sizes.items():
        numbers = ", ".join(f"{cast}{size}{suffix}" for size in (0, n, k, 1 if name == "dense" else 128, 64))
        full.append(f"void deep_gemm::sm90_fp8_gemm_1d2d_impl<(cute::UMMA::Major)0, {numbers}>(x)")
    launches.table["name_full"] = full
    assert told(launches) == {"up": "w13", "down": "w2", "dense": "gemm"}


def test_a_role_of_a_range_wins_over_the_name_and_experts_are_told_apart_further(tmp_path):
    b = NsysBuilder()
    b.push("model.layers.0.self_attn", 0, 10)
    b.launch(1, 1, gpu=(0, US), name="fused_moe_kernel")
    b.push("model.layers.0.mlp.experts", 20, 30)
    b.launch(21, 2, gpu=(2 * US, 3 * US), name="DeviceRadixSortOnesweepKernel")
    b.launch(22, 3, gpu=(4 * US, 5 * US), name="a_kernel_of_nobody")
    launches = parse_report(b.write(tmp_path / "r.sqlite"))
    assert told(launches) == {
        "fused_moe_kernel": "self_attn",
        "DeviceRadixSortOnesweepKernel": "sort",
        "a_kernel_of_nobody": "experts",
    }
    assert sums(launches, "stage")["stage"].tolist() == ["experts", "self_attn"]
    rows = breakdown(launches, roles=True)["path"].tolist()
    assert rows[1:3] == ["model.layers.0.mlp.experts", "model.layers.0.mlp.experts/sort"]


def test_every_process_has_an_instance_of_its_own(tmp_path):
    b = NsysBuilder()
    for process in (1, 2):
        b.launch(1, process, gpu=(0, process * US), name="rms_norm_kernel", process=process)
    norm = breakdown(parse_report(b.write(tmp_path / "r.sqlite"))).iloc[0]
    assert (norm["instances"], norm["kernel_sum_ms"], norm["total_kernel_sum_ms"]) == (2, 0.0015, 0.003)


def captures():
    return sorted({path.parent for path in (REPO / "profiles").glob("*/*/report*")})


@pytest.mark.parametrize("run", captures(), ids=lambda path: path.name)
def test_names_alone_contradict_no_range_of_a_committed_capture(run):
    """GIVEN a capture WHEN its ranges are taken away THEN a role by name is what its range said, or a part of it.

    Around all experts there may be one range, as in models of transformers: every stage but the router is part of it.
    """
    launches = load_run(run).launches
    marked = stage_column(build(launches, timed=False), np.arange(len(launches.table)))
    nothing = pd.array([pd.NA] * len(launches.table), dtype="Int64")
    unmarked = Launches(launches.table.assign(range_id=nothing), tidy(pd.DataFrame(), RANGE_COLUMNS), {"warnings": []})
    role = roles.column(unmarked, build(unmarked, timed=False))
    means = {"experts": {"w13", "w2"}, "attention": {"self_attn"}, "norm": {"norm"}} | {s: {s} for s in STAGES}
    wrong = {
        (name, stage, role_)
        for name, stage, role_ in zip(launches.table["name"], marked, role, strict=True)
        if role_ in means
        and not pd.isna(stage)
        and stage != "self_attn"
        and not means[role_] & (set(STAGES) - {"router"} if stage == "experts" else set(stage.split("+")))
    }
    assert not wrong


def test_kernels_of_a_real_trace_get_their_roles_by_name():
    launches = parse_report(real("h100_2gpu_1s.sqlite"))
    found = sums(launches, "role").set_index("role")["launches"]
    assert found["gemm"] == 640
    assert found.sum() == 3442
    assert found.index.notna().all()


@pytest.mark.parametrize(("name", "domain"), [("cub::DeviceScan::Sum", "CCCL"), ("ncclAllReduce", "NCCL")])
def test_ranges_of_libraries_are_no_roots(name, domain, tmp_path):
    """One inside of a range stays a row, one around nothing else counts as no range."""
    b = NsysBuilder()
    b.event(75, domain, 0, None, domain=5)
    b.push("step", 0, 50)
    b.push(name, 10, 20, domain=5)
    b.launch(11, 1, gpu=(0, US), name="a_kernel_of_nobody")
    b.push(name, 60, 70, domain=5)
    b.launch(61, 2, gpu=(2 * US, 4 * US), name="a_kernel_of_nobody")
    table = breakdown(parse_report(b.write(tmp_path / "r.sqlite")))
    assert table[["path", "total_kernel_sum_ms"]].values.tolist() == [
        ["step", 0.001],
        [f"step/{name}", 0.001],
        ["(unattributed)", 0.002],
    ]
    assert table.attrs["coverage"]["in_range_pct"] == pytest.approx(100 / 3)


def test_a_report_with_ranges_of_libraries_only_is_broken_down_by_role(tmp_path):
    b = NsysBuilder()
    b.push("cub::DeviceRadixSort::SortPairs", 0, 50)
    b.launch(11, 1, gpu=(0, US), name="DeviceRadixSortOnesweepKernel")
    assert breakdown(parse_report(b.write(tmp_path / "r.sqlite")))["name"].tolist() == ["sort", "(unattributed)"]
