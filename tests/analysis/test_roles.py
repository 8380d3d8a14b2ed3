"""Stages of engines that do not mark them: by kernel name and order inside a range."""

import pytest
from nsys_builder import NsysBuilder

from moe_lab import cli
from moe_lab.analysis import roles
from moe_lab.analysis.breakdown import breakdown
from moe_lab.analysis.roles import Rule
from moe_lab.runs.parse import parse_report
from moe_lab.spec.errors import UserError

# The kernels of one fused MoE in launch order, with the stage that each is; gate GEMM of cuBLAS: none.
VLLM = [
    ("nvjet_tst_64x8_TNT", None),
    ("topkGatingSoftmax", "router"),
    ("moe_align_block_size_kernel", "align"),
    ("count_and_sort_expert_tokens_kernel", "align"),
    ("fused_moe_kernel", "w13"),
    ("act_and_mul_kernel", "act"),
    ("fused_moe_kernel", "w2"),
    ("moe_sum_kernel", "combine"),
]
SGLANG = [
    ("nvjet_tst_64x8_TNT", None),
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
    assert launches.meta["warnings"][-1].startswith("14 kernels have their stage by name and order of kernels")
    made = launches.ranges[launches.ranges["synthetic"]]
    assert set(made["name"]) == {"router", "align", "w13", "act", "w2", "combine"}
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
    table = breakdown(parse_report(report), roles=roles.load(own))
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
    assert found.meta["warnings"][-1].startswith("0 of 18 kernels got a stage by the rules of roles: 2 are in one")
    b = NsysBuilder()
    b.kernel(1, 2, None, name="fused_moe_kernel")
    bare = parse_report(b.write(tmp_path / "bare.sqlite"))
    assert roles.apply(bare).meta["warnings"][-1].startswith("0 of 1 kernels got a stage")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1", "must hold a list of rules"),
        ("- {range: a}", "Rule 1 in r.yaml needs range, kernel and role"),
        ("- {range: a, kernel: b, role: w13, colour: red}", "needs range, kernel and role"),
        ("- {range: a, kernel: b, role: gemm1}", "has the role 'gemm1'; use one of router"),
        ("- {range: a, kernel: '(', role: w13}", "not a valid regular expression"),
        ("- {range: a, kernel: b, role: w13, nth: 0}", "count from 1"),
        ("- {range: a, kernel: b, role: w13, of: 2}", "needs an nth"),
        ("[", "cannot be read"),
        ("- {range: 5, kernel: b, role: w13}", "'5' is no text; put it in quotes"),
        ("- {range: a, kernel: b, role: [w13]}", "is no text"),
        ("- {range: a, kernel: b, role: w13, beside: 2020-01-01}", "is no text"),
        ("- {range: 2020-99-99, kernel: b, role: w13}", "month must be in 1..12"),
        ("[" * 100_000, "cannot be read as rules for roles"),
        ("- {range: a, kernel: b, role: w13, nth: 1" + "0" * 400 + "}", "does not fit into 64 bits"),
    ],
)
def test_mistake_in_a_rule_is_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        roles.load(path)


def test_fused_gemms_of_gpt_oss_have_their_stages_in_a_replayed_graph_without_ranges_of_the_experts(tmp_path):
    """The one with the activation in it is w13, its neighbour w2, in whatever order the trace begins."""
    b = NsysBuilder()
    b.push("GptOssForCausalLM_0", 100, 900)
    for number, name in enumerate(("_matmul_ogs_NNT_bf16", "_matmul_ogs_NNT_bf16_swiglu", "_p_matmul_ogs_NNT_bf16")):
        b.launch(110 + number * 10, number + 1, gpu=(1000 * number, 1000 * number + 10 + number), name=name)
    b.push("other", 1000, 1900)  # no activation beside it: it may be either
    b.launch(1010, 9, gpu=(9000, 9050), name="_matmul_ogs_NNT_bf16")
    launches = roles.apply(parse_report(b.write(tmp_path / "e.sqlite")))
    assert launches.ranges.loc[launches.table["range_id"], "name"].tolist() == ["w2", "w13", "w2", "other"]


def test_command_line_says_that_no_rule_fits(tmp_path, capsys):
    report = engine(tmp_path / "e.sqlite", VLLM)
    own = tmp_path / "rules.yaml"
    own.write_text("- {range: no such range, kernel: fused, role: w13}\n")
    assert cli.main(["breakdown", str(report), "--roles", str(own)]) == 0
    assert "note: 0 of 18 kernels got a stage by the rules of roles" in capsys.readouterr().err


def test_command_line_shows_roles_and_says_where_they_come_from(tmp_path, capsys):
    report = engine(tmp_path / "e.sqlite", VLLM)
    assert cli.main(["breakdown", str(report), "--roles", "auto", "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert "model.layers.0.mlp/w13,w13,1,1,1,0.005," in said.out
    assert "note: 14 kernels have their stage by name" in said.err
