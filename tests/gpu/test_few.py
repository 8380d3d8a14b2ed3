"""The one launch of a few pairs with weights of four bits: which problems take it, and that it is right."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from builders import emulated
from quantised_layer import SILENT, make

from moe_lab.gpu.bench.check import Oracle
from moe_lab.gpu.experts import hopper
from moe_lab.gpu.kernels.hopper import few
from moe_lab.spec.problem import MoEProblem

SHARED_BYTES = 232448  # of a block of an H100


@pytest.mark.parametrize(
    ("model", "format", "M", "takes"),
    [
        ("qwen3-30b-a3b", "int4_w4a16", 1, True),
        ("qwen3-30b-a3b", "mxfp4", 4, True),  # 32 pairs
        ("qwen3-30b-a3b", "mxfp4", 5, False),
        ("qwen3-30b-a3b", "bf16", 1, False),
        ("gpt-oss-120b", "mxfp4", 1, True),
        ("gpt-oss-120b", "mxfp4", 2, False),  # 16 pairs, but 106 MB of weights
        ("deepseek-v3", "nvfp4", 1, False),
    ],
)
def test_few_pairs_of_few_bytes_are_taken(model, format, M, takes):
    shape = few.default_shape(MoEProblem.preset(model, M, format), SHARED_BYTES)
    assert (shape is not None) == takes


def test_no_shape_where_a_block_has_too_little_shared_memory():
    problem = MoEProblem.preset("qwen3-30b-a3b", 4, "nvfp4")
    needs = few.shared_bytes(problem, few.default_shape(problem, SHARED_BYTES))
    assert few.default_shape(problem, needs) is not None
    assert few.default_shape(problem, needs - 1) is None


# M, K, N, E, topk, routing, activation, format, biases and why.
CASES = [
    (1, 64, 64, 4, 2, "uniform", "silu", "mxfp4", False, "half a step of K and of N; most blocks have no slab"),
    (1, 2048, 768, 128, 8, "uniform", "silu", "int4_w4a16", False, "one token of Qwen3"),
    (2, 192, 64, 8, 2, "uniform", "swigluoai", "int4_w4a16_g32_zeros", True, "four groups a step, zero points, biases"),
    (3, 320, 192, 16, 8, "hot", "silu", "nvfp4", False, "tokens that share experts; a column without a token"),
    (4, 2048, 768, 128, 8, "uniform", "silu", "mxfp4", False, "a pair for every lane, and several rounds of sums"),
    (1, 2880, 2880, 32, 4, "uniform", "swigluoai", "mxfp4", True, "gpt-oss: a last half of a step, padded units"),
    (1, 2880, 2880, 32, 4, "uniform", "swigluoai", "int4_w4a16", True, "gpt-oss in int4: a last half of a group"),
    (8, 256, 128, 8, 4, "uniform", "silu", "int4_w4a16_g64", True, "a token for every column"),
    (7, 128, 320, 4, 1, "uniform", "silu", "int4_w4a16", False, "one expert a token"),
]


# M, K, N, E, topk, routing, activation, format, biases and why; one block has all slabs.
EMULATED = [
    (1, 192, 64, 4, 2, "uniform", "silu", "mxfp4", False, "a step and a half of K, half of N, padded units of w2"),
    (2, 64, 192, 8, 2, "uniform", "swigluoai", "int4_w4a16_g32_zeros", True, "two columns, groups with zeros, biases"),
    (1, 192, 192, 4, 2, "uniform", "swigluoai", "int4_w4a16", True, "a last half of a group, as gpt-oss has in int4"),
    (3, 64, 128, 4, 3, "hot", "silu", "nvfp4", False, "four columns, one without a token"),
    (5, 64, 64, 2, 1, "uniform", "silu", "int4_w4a16", True, "eight columns"),
]


@pytest.mark.parametrize("blocks", [1, 3], ids=["one-block", "three"])
@pytest.mark.parametrize("case", EMULATED, ids=[case[-1] for case in EMULATED])
def test_blocks_on_the_cpu_match_the_oracle(case, blocks, monkeypatch):
    """The kernel's own text, compiled for the CPU, with stand-ins for copies, barriers and products."""
    *sizes, format, biases, _ = case
    problem, inputs = make(sizes, "cpu", format, biases)
    inputs = inputs._replace(x=inputs.x.bfloat16())
    prepared = hopper.prepare(inputs.w13, inputs.w2)
    monkeypatch.setattr(few, "launch", emulated.launch)
    monkeypatch.setattr(few, "multiprocessors", lambda device: blocks)
    shape = few.default_shape(problem, SHARED_BYTES)
    memory, oracle = torch.zeros(few.memory_words(problem), dtype=torch.int32), Oracle(inputs, problem)
    ids = inputs.topk_ids.long() if biases else inputs.topk_ids  # a type of ids is another kernel
    elsewhere = torch.full_like(ids, -1)  # of other ranks
    for given in (ids, ids, elsewhere, elsewhere, ids, elsewhere, ids):  # each leaves the memory as the next needs it
        y = few.few(inputs.x, *prepared, inputs.topk_weights, given, memory, problem, shape)
        if given is elsewhere:
            assert not y.any()
        else:
            errors = oracle.errors(y)
            assert oracle.right(errors), (errors, oracle.bound)
    if not biases:
        nothing = torch.zeros_like(inputs.x)
        assert not few.few(nothing, *prepared, inputs.topk_weights, ids, memory, problem, shape).any()


@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_the_cases_are_taken_and_padded_as_the_other_kernel_pads_them(case):
    M, K, N, E, topk, _, activation, format, biases, _ = case
    problem = MoEProblem(M, K, N, E, topk, format, activation, biases=biases)
    assert few.default_shape(problem, SHARED_BYTES)
    assert hopper.block_m(problem) == 8, "columns of an mma"


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=[case[-1] for case in CASES])
def test_one_launch_matches_the_oracle_launch_after_launch(case, device, poison):
    *sizes, format, biases, _ = case
    problem, inputs = make(sizes, device, format, biases)
    if not hopper.runs_on(inputs.x.device):
        pytest.skip("needs compute capability 9.0")
    oracle, prepared = Oracle(inputs, problem), hopper.prepare(inputs.w13, inputs.w2)
    for ids in (inputs.topk_ids, inputs.topk_ids.long(), inputs.topk_ids):  # each leaves its flags for the next
        names = []
        y = hopper.experts(inputs.x, *prepared, inputs.topk_weights, ids, problem=problem, mark=marked(names))
        assert names == ["align+w13+act+w2+combine"]
        errors = oracle.errors(y)
        assert oracle.right(errors), (errors, oracle.bound)


@pytest.mark.gpu
@pytest.mark.parametrize("here", [[0, 1], [3], []], ids=["some experts", "one", "none"])
def test_pairs_of_other_ranks_count_nothing(here, device, poison):
    problem, inputs = make((3, 256, 128, 4, 2, "uniform", "silu"), device, "int4_w4a16", True)
    if not hopper.runs_on(inputs.x.device):
        pytest.skip("needs compute capability 9.0")
    kept = torch.isin(inputs.topk_ids, torch.tensor(here, device=device, dtype=inputs.topk_ids.dtype))
    weights, ids = inputs.topk_weights * kept, torch.where(kept, inputs.topk_ids, -1)
    prepared = hopper.prepare(inputs.w13, inputs.w2)
    names = []
    y = hopper.experts(inputs.x, *prepared, weights, ids, problem=problem, mark=marked(names), share=0.5)
    assert names == ["align+w13+act+w2+combine"]
    if not here:
        assert not y.any()
        return
    oracle = Oracle(inputs._replace(topk_weights=weights), problem)
    assert oracle.right(oracle.errors(y))


def marked(names):
    def mark(name):
        names.append(name)
        return SILENT(name)

    return mark
