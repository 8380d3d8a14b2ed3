import contextlib
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import routing
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.experts import fused_moe, load, torch_loop
from moe_lab.spec import plugins, ranges
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

SILENT = ranges.marker("none")
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DTYPES = ["fp32", "fp16", pytest.param("bf16", marks=pytest.mark.gpu)]
# M, K, N, E, topk, routing and why.
CASES = [
    (1, 64, 48, 4, 2, "uniform", "one token"),
    (5, 64, 48, 4, 2, "uniform", "fewer rows than a tile"),
    (33, 72, 40, 8, 2, "uniform", "tails in M, N and K"),
    (19, 51, 37, 3, 2, "uniform", "odd K and N: no aligned load"),
    (3, 64, 32, 64, 2, "uniform", "most experts empty"),
    (9, 64, 32, 4, 4, "uniform", "topk = E: every expert gets every token"),
    (40, 64, 32, 8, 1, "hot", "everything to one expert, several tiles of it"),
    (21, 64, 32, 1, 1, "uniform", "a single expert"),
    (100, 64, 32, 4, 2, "zipf:1.0", "tiles of 64 rows"),
    (700, 32, 136, 2, 2, "uniform", "tiles of 128 rows, more of them than group_m, several columns of tiles"),
    (0, 64, 32, 8, 2, "uniform", "no tokens"),
]
IDS = [f"M{M}-K{K}-N{N}-E{E}-topk{topk}-{spec}" for M, K, N, E, topk, spec, _ in CASES]


def make(case, dtype, device, activation="silu"):
    M, K, N, E, topk, spec, _ = case
    problem = MoEProblem(M, K, N, E, topk, dtype, activation)
    g = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def normal(*shape, scale):
        return (torch.randn(*shape, generator=g) * scale).to(device, TORCH[dtype])

    tensors = normal(M, K, scale=1), normal(E, 2 * N, K, scale=K**-0.5), normal(E, K, N, scale=N**-0.5)
    return problem, (*tensors, *routing.synthetic(spec, M, E, topk, seed=g.initial_seed(), device=device))


def supports(name, dtype, device, problem):
    info = plugins.info("experts", name)
    if plugins.unavailable("experts", name):
        return False
    multiple = info.get("multiple_of", 1)
    formats = info.get("cpu_formats", info["formats"]) if device == "cpu" else info["formats"]
    return dtype in formats and problem.K % multiple == problem.N % multiple == 0


def states_tf32(name):
    return plugins.info("experts", name).get("fp32") == "tf32"


def assert_close(y, problem, tensors, tf32=False):
    """Every element, and the RMS of all, is as near the fp64 oracle as its arithmetic allows."""
    oracle = Oracle(Inputs(*tensors), problem)
    errors = oracle.errors(y, tf32)
    assert oracle.right(errors, tf32), (errors, oracle.bound_of(tf32))


@pytest.mark.parametrize("name", plugins.names("experts"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_backend_matches_the_fp64_oracle(name, dtype, case, device, poison):
    problem, tensors = make(case, dtype, device)
    if not supports(name, dtype, device, problem):
        pytest.skip(f"{name} states that it does not do this")
    if device == "cpu" and problem.M > 500 and dtype != "fp32":
        pytest.skip("the interpreter takes as many seconds again for the same tiles")
    backend, _ = load(name)
    prepared = backend.prepare(*tensors[1:3]) if hasattr(backend, "prepare") else tensors[1:3]
    y = backend.experts(tensors[0], *prepared, *tensors[3:], problem=problem, mark=SILENT)
    assert_close(y, problem, tensors, states_tf32(name))


@pytest.mark.parametrize("name", plugins.names("experts"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_backend_multiplies_the_input_by_the_router_weight_where_the_model_does(name, dtype, device, poison):
    """llama-4, with weights far from 1: the other order of factors is far outside the bound."""
    case = (21, 128, 64, 4, 1, "uniform", "")
    problem, tensors = make(case, dtype, device)
    if not supports(name, dtype, device, problem):
        pytest.skip(f"{name} states that it does not do this")
    weights = torch.linspace(0.1, 0.9, 21, device=device)[:, None].contiguous()
    tensors = (*tensors[:3], weights, tensors[4])
    on_input = replace(problem, apply_router_weight_on_input=True)
    backend, _ = load(name)
    prepared = backend.prepare(*tensors[1:3]) if hasattr(backend, "prepare") else tensors[1:3]
    y = backend.experts(tensors[0], *prepared, *tensors[3:], problem=on_input, mark=SILENT)
    assert_close(y, on_input, tensors, states_tf32(name))
    with pytest.raises(AssertionError):
        assert_close(y, problem, tensors, states_tf32(name))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_moe_matches_the_oracle_with_the_clamped_activation(dtype, device, poison):
    problem, tensors = make((17, 64, 48, 4, 2, "uniform", ""), dtype, device, "swigluoai")
    tensors[1].mul_(8)  # so that gates and ups pass the limit of 7
    assert_close(fused_moe.experts(*tensors, problem=problem, mark=SILENT), problem, tensors)


@pytest.mark.parametrize("align", plugins.names("align"))
def test_fused_moe_takes_any_align_algorithm(align, device, poison):
    if "cuda.core" in plugins.info("align", align)["needs"] and device != "cuda":
        pytest.skip("CUDA C++: only on a GPU")
    if reason := plugins.unavailable("align", align):
        pytest.skip(reason)
    problem, tensors = make((50, 64, 32, 8, 2, "zipf:1.0", ""), "fp16", device)
    assert_close(fused_moe.experts(*tensors, problem=problem, mark=SILENT, align=align), problem, tensors)


def test_oracle_is_the_formula_of_the_layer():
    """One token, two experts, numbers small enough for a pencil: y = sum_j weight_j * w2_j (silu(gate) * up)."""
    problem = MoEProblem(1, 1, 1, 2, 2, "fp32")
    x, w13 = torch.tensor([[2.0]]), torch.tensor([[[1.0], [3.0]], [[-1.0], [0.5]]])
    w2 = torch.tensor([[[10.0]], [[100.0]]])
    weights, ids = torch.tensor([[0.25, 0.75]]), torch.tensor([[1, 0]])
    silu = {2.0: 2 / (1 + 2.718281828459045**-2), -2.0: -2 / (1 + 2.718281828459045**2)}
    expected = 0.25 * 100 * (silu[-2.0] * 1.0) + 0.75 * 10 * (silu[2.0] * 6.0)
    y = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
    assert float(y) == pytest.approx(expected, rel=1e-6)


def test_oracle_scales_the_input_where_the_preset_says_so():
    """One token, one expert, every weight 1, router score 1/2: silu(s) * s = 0.1556, not s * silu(1) = 0.3655."""
    x, w13, w2 = torch.ones(1, 1), torch.ones(1, 2, 1), torch.ones(1, 1, 1)
    weights, ids = torch.tensor([[0.5]]), torch.tensor([[0]])
    for on_input, expected in ((True, 0.1556), (False, 0.3655)):
        problem = MoEProblem(1, 1, 1, 1, 1, "fp32", apply_router_weight_on_input=on_input)
        y = torch_loop.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
        assert float(y) == pytest.approx(expected, abs=5e-5)
    assert MoEProblem.preset("llama-4-maverick", 1).apply_router_weight_on_input
    assert not MoEProblem.preset("qwen3-30b-a3b", 1).apply_router_weight_on_input


BOUNDED = [(7, 64, 48, 4, 2, "uniform", ""), (33, 512, 256, 8, 4, "uniform", ""), (64, 1024, 64, 4, 1, "uniform", "")]


@pytest.mark.parametrize("case", BOUNDED, ids=["small", "wide", "deep"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("activation", ["silu", "swigluoai"])
def test_bound_holds_for_right_results_and_not_for_nearly_right_ones(case, dtype, activation, device):
    problem, tensors = make(case, dtype, device, activation)
    oracle = Oracle(Inputs(*tensors), problem)

    def errors(inputs):
        y = torch_loop.moe(*inputs, problem=problem, mark=SILENT, dtype=inputs[0].dtype)
        return oracle.errors(y.to(TORCH[dtype]))

    right = errors(tensors)
    assert oracle.right(right)
    assert right.share < 0.7, "far from it: no draw is unlucky"
    lost = tensors[0].clone()
    lost[:, -4:] = 0  # four features of every token
    assert not oracle.right(errors((lost, *tensors[1:])))
    one = tensors[2].clone()
    one[:, 3] *= -1  # one column of y
    assert not oracle.right(errors((*tensors[:2], one, *tensors[3:])))
    if dtype == "fp32":
        cut = [(t.view(torch.int32) & ~0x1FFF).view(torch.float32) for t in tensors[:3]]  # as tf32 reads them
        found = errors((*cut, *tensors[3:]))
        assert not oracle.right(found)
        assert oracle.right(
            oracle.errors(torch_loop.moe(*cut, *tensors[3:], problem=problem, mark=SILENT, dtype=torch.float32), True),
            True,
        )


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("fused_moe", ["align", "w13", "act", "w2", "combine"]),
        ("torch_grouped", ["align", "dispatch", "w13", "act", "w2", "combine"]),
    ],
)
def test_backend_marks_the_stages_that_it_has_in_order(name, stages, device):
    dtype = "bf16" if device == "cuda" else "fp32"
    problem, tensors = make((9, 64, 32, 4, 2, "uniform", ""), dtype, device)
    seen = []

    @contextlib.contextmanager
    def mark(stage):
        seen.append(stage)
        yield

    load(name)[0].experts(*tensors, problem=problem, mark=mark)
    assert seen == stages


@pytest.mark.parametrize("name", plugins.names("experts"))
def test_backend_states_what_it_needs_as_data(name):
    info = plugins.info("experts", name)
    assert {"about", "needs", "hardware", "formats", "activations", "source"} <= info.keys()


def test_poison_makes_unwritten_rows_visible(device, poison):
    """The fixture itself: without it the NaN tests above would pass on recycled zeros."""
    assert torch.empty(4, device=device).isnan().all()
    assert torch.empty_like(torch.zeros(4)).isnan().all()
    assert (torch.zeros(4).new_empty((2,), dtype=torch.int32) == 2**31 - 1).all()


def test_fused_moe_refuses_bfloat16_under_the_interpreter(device):
    if device == "cuda":
        pytest.skip("the interpreter is off")
    problem, tensors = make((4, 64, 32, 4, 2, "uniform", ""), "bf16", device)
    with pytest.raises(UserError, match="use fp32 or fp16 on the CPU"):
        fused_moe.experts(*tensors, problem=problem, mark=SILENT)


@pytest.mark.parametrize("name", ["fused_moe", "grouped", "hopper"])
@pytest.mark.parametrize("which", ["x", "w13", "w2", "topk_weights", "topk_ids"])
def test_our_backends_refuse_inputs_that_are_not_contiguous(name, which, device):
    problem, tensors = make((4, 64, 64, 4, 2, "uniform", ""), "fp16", device)
    backend, _ = load(name)
    prepared = backend.prepare(*tensors[1:3]) if hasattr(backend, "prepare") else tensors[1:3]
    given = dict(
        zip(["x", "w13", "w2", "topk_weights", "topk_ids"], [tensors[0], *prepared, *tensors[3:]], strict=True)
    )
    given[which] = torch.cat([given[which]] * 2, dim=-1)[..., ::2]
    with pytest.raises(UserError, match=rf"^{which} \[.*\] is not contiguous; call .contiguous\(\) first"):
        backend.experts(*given.values(), problem=problem, mark=SILENT)


def test_tiles_follow_the_rows_that_an_expert_gets():
    rows = {M: fused_moe.block_m(MoEProblem.preset("qwen3-30b-a3b", M)) for M in (1, 16, 128, 512, 1024, 4096, 32768)}
    assert rows == {1: 16, 16: 16, 128: 16, 512: 64, 1024: 64, 4096: 128, 32768: 128}


@pytest.mark.gpu
@pytest.mark.parametrize("name", [n for n in plugins.names("experts") if plugins.info("experts", n).get("cuda_graph")])
def test_backend_replays_in_a_cuda_graph_with_other_tokens_and_routing(name, device):
    case = (65, 256, 128, 16, 4, "zipf:1.0", "")
    problem, tensors = make(case, "bf16", device)
    _, others = make(case, "bf16", device)
    if plugins.unavailable("experts", name):
        pytest.skip("not installed here")
    backend, _ = load(name)
    prepare = getattr(backend, "prepare", lambda *weights: weights)

    def arguments(own):
        return [own[0], *prepare(*own[1:3]), *own[3:]]

    def leaves(own):  # `auto` prepares weights by backend
        return torch.utils._pytree.tree_leaves(arguments(own))

    static = torch.utils._pytree.tree_map(lambda t: t if t is None else t.clone(), arguments(tensors))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        backend.experts(*static, problem=problem, mark=SILENT)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        backend.experts(*static, problem=problem, mark=SILENT)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = backend.experts(*static, problem=problem, mark=SILENT)
    for inputs in (others, tensors):
        for target, source in zip(torch.utils._pytree.tree_leaves(static), leaves(inputs), strict=True):
            if target is not None:
                target.copy_(source)
        graph.replay()
        assert_close(y, problem, inputs)


# M, K, N, E, topk, routing, activation, options of hopper.experts and why.
HOPPER = [
    (1, 64, 64, 4, 2, "uniform", "silu", {}, "one step of K, half a unit of w2"),
    (4, 2048, 768, 128, 8, "uniform", "silu", {}, "tiles of 128 weight rows; fewer of w13 than of w2"),
    (8, 2048, 768, 128, 8, "uniform", "silu", {}, "tiles of 256 weight rows, few tokens each"),
    (33, 256, 192, 8, 2, "uniform", "swigluoai", {}, "units of w13 that are odd in number"),
    (300, 192, 128, 8, 4, "hot", "silu", {"shape": (2, 32, 8, 5)}, "sorted by each block, experts of several tiles"),
    (2000, 192, 128, 8, 4, "hot", "silu", {"shape": (2, 32, 8, 5)}, "the same with the most pairs that a block sorts"),
    (700, 320, 320, 4, 2, "zipf:1.0", "silu", {"own_sort": False}, "pairs that align sorted"),
    (700, 320, 320, 4, 2, "zipf:1.0", "silu", {"own_sort": False, "split": True}, "two launches"),
    (3000, 256, 128, 16, 4, "uniform", "silu", {}, "more pairs than a block sorts"),
    (4000, 1024, 64, 8, 4, "uniform", "silu", {}, "rows of y that pass half of the L2 cache"),
    (16, 64, 64, 384, 8, "uniform", "silu", {}, "most experts empty; more of them than threads of a warp by twelve"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("case", HOPPER, ids=[case[-1] for case in HOPPER])
def test_hopper_matches_the_oracle_launch_after_launch(case, dtype, device, poison):
    from moe_lab.gpu.experts import hopper

    *sizes, activation, options, _ = case
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    problem, tensors = make((*sizes, ""), dtype, device, activation)
    options = {key: hopper.Shape(*value) if key == "shape" else value for key, value in options.items()}
    weights = hopper.prepare(*tensors[1:3])
    for _ in range(3):  # each launch must leave the flags as the next one needs them
        y = hopper.experts(tensors[0], *weights, *tensors[3:], problem=problem, mark=SILENT, **options)
        assert_close(y, problem, tensors)


# The same for e4m3, where K and N are multiples of 128.
HOPPER_FP8 = [
    (1, 128, 128, 4, 2, "uniform", "silu", {}, "one step of K and of N; each block quantises the token"),
    (3, 2048, 768, 128, 8, "uniform", "silu", {}, "hidden activations in groups of 64"),
    (9, 7168, 256, 32, 8, "uniform", "silu", {}, "all blocks quantise together"),
    (33, 384, 384, 8, 2, "uniform", "swigluoai", {}, "units of w2 that are odd in number"),
    (300, 384, 128, 8, 4, "hot", "silu", {"shape": (2, 32, 8, 5)}, "sorted by each block, experts of several tiles"),
    (100, 256, 128, 2, 2, "uniform", "silu", {"shape": (2, 112, 16, 4)}, "scales that are read when they are needed"),
    (
        700,
        640,
        256,
        4,
        2,
        "zipf:1.0",
        "silu",
        {"shape": (2, 96, 16, 4), "own_sort": False, "split": True},
        "two launches",
    ),
    (1500, 384, 384, 4, 2, "zipf:1.0", "silu", {}, "tokens as rows, the last tile of an expert of any number"),
    (3000, 256, 128, 16, 4, "hot", "swigluoai", {"split": True}, "tokens as rows, two launches"),
    (4000, 1024, 128, 8, 4, "uniform", "silu", {}, "tokens as rows, and rows of y that pass half of the L2 cache"),
]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("case", HOPPER_FP8, ids=[case[-1] for case in HOPPER_FP8])
def test_hopper_in_fp8_matches_the_dequantised_oracle_launch_after_launch(case, dtype, device, poison):
    """Nearly as near as the format's roundings allow: half of the bound on the RMS.

    The RMS of a single token varies more: roundings alone, in fp64, come to 0.044 of it in the mean of 3000 draws and
    to 0.072 at most, where half of the bound is 0.056.
    """
    from moe_lab.gpu.experts import hopper
    from moe_lab.gpu.formats import quantise

    *sizes, activation, options, _ = case
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    problem, (x, *weights, topk_weights, ids) = make((*sizes, ""), dtype, device, activation)
    problem = replace(problem, format="fp8_block")
    weights = [quantise(w, "fp8_block") for w in weights]
    inputs = Inputs(x, *weights, topk_weights, ids)
    options = {key: hopper.Shape(*value) if key == "shape" else value for key, value in options.items()}
    oracle, prepared = Oracle(inputs, problem), hopper.prepare(*weights)
    for _ in range(3):
        y = hopper.experts(x, *prepared, topk_weights, ids, problem=problem, mark=SILENT, **options)
        errors = oracle.errors(y)
        assert oracle.right(errors), (errors, oracle.bound)
        assert errors.rms_rel < oracle.bound.rms_rel / (1.5 if problem.M == 1 else 2)


def with_scales_behind(x, padding):
    """Rows as they travel between ranks: numbers, their scales, and some bytes more."""
    from moe_lab.gpu.kernels.hopper import given_bytes, row_bytes

    M, K = x.shape
    rows = x.values.new_zeros((M, row_bytes(K) + padding), dtype=torch.uint8)
    rows[:, :K], scales = x.values.view(torch.uint8), rows[:, K : K + K // 32]
    scales.copy_(x.scales.view(torch.uint8))
    rows = replace(x, values=rows[:, :K].view(x.values.dtype), scales=scales.view(torch.float32))
    assert given_bytes(rows) == row_bytes(K) + padding
    return rows


def test_rows_whose_scales_lie_elsewhere_are_not_taken_as_they_are():
    from moe_lab.gpu.formats import fp8_block
    from moe_lab.gpu.kernels.hopper import given_bytes

    rows = fp8_block.quantise_activations(torch.randn(5, 256))
    assert given_bytes(rows) == 0
    assert given_bytes(with_scales_behind(rows, 0))
    assert not given_bytes(with_scales_behind(rows, 16).each(lambda t: t.contiguous()))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("sizes", "padding"),
    [
        ((3, 2048, 256, 16, 4, "uniform"), 64),
        ((200, 7168, 128, 16, 4, "uniform"), 32),
        ((1500, 384, 384, 4, 2, "zipf:1.0"), 0),
        ((40, 256, 128, 4, 2, "uniform"), None),
    ],
    ids=["few tokens", "rows in lines of 128 bytes", "tokens as rows", "scales elsewhere"],
)
def test_hopper_takes_rows_that_are_quantised_already(sizes, padding, device, poison):
    """As they came from another rank: a third of the rows are not for this one, and hold anything."""
    from moe_lab.gpu.experts import hopper
    from moe_lab.gpu.formats import dense, fp8_block, quantise

    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs compute capability 9.0")
    problem, (x, *weights, topk_weights, ids) = make((*sizes, ""), "bf16", device)
    problem = replace(problem, format="fp8_block")
    weights = [quantise(w, "fp8_block") for w in weights]
    rows = fp8_block.quantise_activations(x)
    absent = (torch.arange(problem.M, device=device) % 3 == 1)[:, None]
    oracle = Oracle(Inputs(dense(rows, torch.bfloat16), *weights, topk_weights.masked_fill(absent, 0), ids), problem)
    if padding is not None:
        rows = with_scales_behind(rows, padding)
    rows.values.view(torch.uint8)[absent[:, 0]] = 0x7F  # not a number
    ids, prepared = ids.masked_fill(absent, -1), hopper.prepare(*weights)
    for _ in range(3):
        y = hopper.experts(rows, *prepared, topk_weights, ids, problem=problem, mark=SILENT, share=2 / 3)
        errors = oracle.errors(y)
        assert oracle.right(errors), (errors, oracle.bound)


def test_e4m3_weights_are_prepared_by_a_permutation_with_their_scales_behind(device):
    """K = 384: w2 has three units, so the last two share scales with one that is none."""
    from moe_lab.gpu.experts import hopper
    from moe_lab.gpu.formats import quantise

    _, tensors = make((1, 384, 128, 2, 1, "uniform", ""), "fp16", device)
    w13, w2 = (quantise(w, "fp8_block") for w in tensors[1:3])
    for before, after, unit_pairs in zip((w13, w2), hopper.prepare(w13, w2), (1, 2), strict=True):
        E, rows, k = before.values.shape
        size = unit_pairs * 2 * 128 * k
        if rows % 256:
            size -= 128 * k
        numbers, scales = after[:, :size], after[:, size:].contiguous().view(torch.float32)
        kept = before.values.view(torch.uint8)
        assert torch.equal(numbers.flatten().sort().values, kept.flatten().sort().values)
        assert scales.shape == (E, unit_pairs * k // 128 * 4)
        assert set(scales.flatten().tolist()) - {0.0} == set(before.scales.flatten().tolist())


@pytest.mark.parametrize("name", ["hopper", "auto"])
def test_weights_are_prepared_by_a_permutation(name, device):
    """Every weight is somewhere in what the kernel reads, once: 64 is one step of K, 192 a unit and a half of w2."""
    _, tensors = make((1, 192, 64, 2, 1, "uniform", ""), "fp16", device)
    prepared = plugins.load("experts", name).prepare(*tensors[1:3])
    for before, after in zip(
        tensors[1:3], prepared if name == "hopper" else next(iter(prepared[0].values())), strict=True
    ):
        after = after.view(torch.float16)
        kept = after.flatten().sort().values
        zeros = torch.zeros(after.numel() - before.numel(), dtype=before.dtype, device=device)
        assert torch.equal(kept, torch.cat([before.flatten(), zeros]).sort().values)


@pytest.mark.parametrize(("K", "N"), [(72, 64), (64, 96)])
def test_hopper_refuses_sizes_that_its_steps_do_not_divide(K, N, device):
    _, tensors = make((1, K, N, 2, 1, "uniform", ""), "fp16", device)
    with pytest.raises(UserError, match=f"multiples of 64, not {K} and {N}; use grouped"):
        plugins.load("experts", "hopper").prepare(*tensors[1:3])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("M", "K", "N", "E", "topk"),
    [
        pytest.param(4, 7168, 2048, 256, 8, id="weights: E * 2N * K = 7.5e9 elements"),
        pytest.param(66_000, 64, 2048, 8, 8, id="activations: M * topk * 2N = 2.2e9 elements"),
    ],
)
def test_fused_moe_addresses_more_than_2_to_the_31_elements(M, K, N, E, topk, device):
    problem = MoEProblem(M, K, N, E, topk, "bf16")
    x = torch.randn(M, K, device=device, dtype=torch.bfloat16)
    w13 = torch.empty(E, 2 * N, K, device=device, dtype=torch.bfloat16).normal_(0, K**-0.5)
    w2 = torch.empty(E, K, N, device=device, dtype=torch.bfloat16).normal_(0, N**-0.5)
    weights, ids = routing.synthetic("uniform", M, E, topk, device=device)
    y = fused_moe.experts(x, w13, w2, weights, ids, problem=problem, mark=SILENT)
    last = slice(max(0, M - 64), M)  # the last rows lie past 2**31
    small = MoEProblem(x[last].shape[0], K, N, E, topk, "bf16")
    assert_close(y[last], small, (x[last], w13, w2, weights[last], ids[last]))
