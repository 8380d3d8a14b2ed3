import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu.kernels import router as kernels
from moe_lab.gpu.kernels.router import fused_route
from moe_lab.gpu.routing import route
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import MODELS, Router

INF = float("inf")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # inf - inf is meant
DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
RULES = {
    "softmax": Router("softmax"),
    "softmax-raw-scaled": Router("softmax", renormalise=False, scaling=2.0),
    "softmax_topk": Router("softmax_topk", scaling=0.5),
    "sigmoid": Router("sigmoid", renormalise=False),
    "sigmoid-bias": Router("sigmoid", bias=True, scaling=2.5),
}


@pytest.fixture(params=["rows-in-a-tile", "row-a-program"])
def tiling(request, monkeypatch):
    """Small batches get a program a row; tiles of several rows, which large batches get, are forced here."""
    if request.param == "rows-in-a-tile":
        monkeypatch.setattr(kernels, "PROGRAMS", 1)


@pytest.fixture
def tiles(monkeypatch):
    monkeypatch.setattr(kernels, "PROGRAMS", 1)


def distinct_logits(M, E, dtype, device, seed=0):
    """[M, E] in random order, no two of a row equal in bf16 (E <= 256) or fp16, nor their sigmoids in fp32."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(E, generator=generator) for _ in range(M)]) if M else torch.empty(0, E)
    return ((order - E // 2) / 64).to(device=device, dtype=dtype)


def bias_of(E, device):
    return torch.randn(E, generator=torch.Generator().manual_seed(E)).mul(0.1).to(device)


def assert_same(result, expected):
    """Ids are equal; weights within four roundings of the fp32 exponential of a GPU."""
    assert (result.topk_weights.dtype, result.topk_ids.dtype) == (torch.float32, torch.int32)
    assert torch.equal(result.topk_ids.long(), expected.topk_ids)
    torch.testing.assert_close(result.topk_weights, expected.topk_weights, rtol=2e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("M", "E", "topk"),
    [
        (1, 1, 1),  # one expert: codes without a bit for the id
        (0, 16, 2),  # nothing to launch
        (35, 8, 8),  # every expert is chosen; one tile of 32 rows and three more
        (5, 60, 6),  # columns and slots beyond E and topk; the last tile of two is not full
        (2, 160, 20),  # many rounds, and slots beyond them
    ],
)
def test_fused_route_equals_route(M, E, topk, rule, dtype, device, poison, tiles):
    logits, bias = distinct_logits(M, E, dtype, device), bias_of(E, device)
    assert_same(fused_route(logits, RULES[rule], topk, bias), route(logits, RULES[rule], topk, bias))


@pytest.mark.parametrize("name", MODELS)
def test_fused_route_equals_route_for_every_preset(name, device, poison, tiling):
    m = MODELS[name]
    logits, bias = distinct_logits(5, m.E, torch.float16, device), bias_of(m.E, device)
    assert_same(fused_route(logits, m.router, m.topk, bias), route(logits, m.router, m.topk, bias))


@pytest.mark.parametrize("rule", ["softmax", "sigmoid-bias"])
def test_fused_route_takes_1024_experts(rule, device, poison):
    logits, bias = distinct_logits(3, 1024, torch.float32, device), bias_of(1024, device)
    assert_same(fused_route(logits, RULES[rule], 8, bias), route(logits, RULES[rule], 8, bias))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("E", "groups", "kept", "topk"),
    [
        (60, 4, 2, 5),  # groups of 15 in columns of 16
        (48, 3, 2, 4),  # three groups in a block of four
        (36, 3, 2, 4),  # three groups of twelve in a block of four by sixteen
        (8, 8, 5, 3),  # groups of one expert: its score is the group's
        (16, 4, 2, 8),  # everything in the kept groups is chosen
    ],
)
def test_fused_route_keeps_the_best_groups(E, groups, kept, topk, bias, score, device, poison, tiles):
    rule = Router(score, groups=groups, topk_groups=kept, bias=bias)
    logits = distinct_logits(5, E, torch.float32, device) * 4
    added = bias_of(E, device) - 2  # below the columns beyond a group
    assert_same(fused_route(logits, rule, topk, added), route(logits, rule, topk, added))


def test_softmax_over_the_chosen_knows_neither_groups_nor_bias(device):
    logits, bias = distinct_logits(3, 16, torch.float32, device), bias_of(16, device)
    rule = Router("softmax_topk", groups=3, topk_groups=1, bias=True)
    assert_same(fused_route(logits, rule, 8, bias), route(logits, Router("softmax_topk"), 8))


def lower_id_first(logits, topk):
    return logits.sort(dim=-1, descending=True, stable=True).indices[:, :topk].tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_scores_go_to_the_lower_id(dtype, device, tiling):
    """Four values in 40 experts, two of them zeros of different sign."""
    values = torch.tensor([-1.0, -0.0, 0.0, 0.75], device=device)
    logits = values[torch.randint(0, 4, (7, 40), generator=torch.Generator().manual_seed(1)).to(device)].to(dtype)
    assert fused_route(logits, RULES["softmax"], 12).topk_ids.tolist() == lower_id_first(logits.float(), 12)
    grouped = Router("sigmoid", bias=True, groups=4, topk_groups=2)
    ids = fused_route(
        torch.zeros(3, 40, device=device, dtype=dtype), grouped, 12, torch.zeros(40, device=device)
    ).topk_ids
    assert ids.tolist() == [list(range(12))] * 3


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_that_differ_in_their_last_bit_are_told_apart(sign, device, tiling):
    """All but row 1 agree in the bits that packed codes keep: fp32 neighbours of 1, in pairs, or below zeros."""
    steps = distinct_logits(6, 256, torch.float32, device) * 64 + 128
    steps[3] = steps[3] // 2
    logits = sign * (1 + steps * 2.0**-23)
    logits[1] = distinct_logits(1, 256, torch.float32, device)[0]
    logits[4] = -logits[4].abs()
    logits[4, 40:60:2], logits[4, 41:60:2] = -0.0, 0.0
    assert fused_route(logits, RULES["softmax"], 8).topk_ids.tolist() == lower_id_first(logits, 8)


def test_a_near_tie_between_the_last_chosen_and_the_first_left_out_is_decided_right(device):
    logits = torch.zeros(1, 128, device=device)
    logits[0, 9], logits[0, 4], logits[0, 70] = 3.0, 2.0, 2.0 + 2.0**-22
    assert fused_route(logits, RULES["softmax"], 2).topk_ids.tolist() == [[9, 70]]


@pytest.mark.parametrize("rule", RULES)
def test_minus_infinity_is_chosen_last_and_weighs_nothing(rule, device, poison, tiles):
    logits = torch.full((2, 12), -INF, device=device)
    logits[0, 7], logits[0, 3] = 2.0, 1.0
    weights, ids = fused_route(logits, RULES[rule], 4, torch.zeros(12, device=device))
    assert ids.tolist() == [[7, 3, 0, 1], [0, 1, 2, 3]]
    expected = route(logits, RULES[rule], 4, torch.zeros(12, device=device)).topk_weights
    torch.testing.assert_close(weights, expected, rtol=2e-6, atol=0, equal_nan=True)


def test_experts_that_a_bias_forbids_come_after_all_others_of_the_kept_groups_only(device):
    """Two groups of four; the better one, kept, has two experts forbidden: they are still chosen before group 0."""
    bias = torch.tensor([0, 0, 0, 0, 1, -INF, 1, -INF], device=device)
    rule = Router("sigmoid", bias=True, groups=2, topk_groups=1)
    assert fused_route(torch.zeros(1, 8, device=device), rule, 4, bias).topk_ids.tolist() == [[4, 6, 5, 7]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("rule", [*RULES, "groups"])
def test_nan_ranks_first_and_shows_in_the_weights(rule, sign, device, tiles):
    router = Router("sigmoid", bias=True, groups=3, topk_groups=2) if rule == "groups" else RULES[rule]
    logits, bias = distinct_logits(2, 12, torch.float32, device), torch.zeros(12, device=device)
    logits[0, 5] = torch.tensor(float("nan")).copysign(torch.tensor(sign))
    weights, ids = fused_route(logits, router, 3, bias)
    expected = route(logits, router, 3, bias)
    assert torch.equal(weights.isnan(), expected.topk_weights.isnan())
    assert weights.isnan().any(dim=1).tolist() == [True, False]
    assert len(set(ids[0].tolist())) == 3
    assert ids[0, 0] == 5


def test_fused_route_reads_rows_that_do_not_follow_each_other(device):
    wide = distinct_logits(4, 32, torch.float32, device)
    assert_same(fused_route(wide[:, :20], RULES["softmax"], 3), route(wide[:, :20], RULES["softmax"], 3))


@pytest.mark.parametrize(
    ("logits", "router", "topk", "bias", "sentence"),
    [
        (torch.zeros(1, 4), Router("sigmoid", bias=True), 2, None, "pass bias"),
        (torch.zeros(1, 4), Router("sigmoid", bias=True), 2, torch.zeros(3), "pass bias"),
        (torch.zeros(1, 8), Router("sigmoid", groups=4, topk_groups=1), 4, None, "cannot give topk=4"),
        (torch.zeros(1, 8), Router("sigmoid", groups=3, topk_groups=2), 2, None, "3 expert groups"),
        (torch.zeros(1, 8), Router("sigmoid", groups=2, topk_groups=3), 2, None, "3 are kept"),
        (torch.zeros(1, 4), Router(), 5, None, "1 <= topk <= E"),
        (torch.zeros(1, 4), Router(), 0, None, "1 <= topk <= E"),
        (torch.zeros(4), Router(), 1, None, r"logits \[M, E\]"),
    ],
)
def test_both_routes_refuse_the_same_input(logits, router, topk, bias, sentence):
    for rule in (route, fused_route):
        with pytest.raises(UserError, match=sentence):
            rule(logits, router, topk, bias)


@pytest.mark.parametrize("logits", [torch.zeros(1, 1025), torch.zeros(1, 4, dtype=torch.float64)], ids=["E", "dtype"])
def test_fused_route_names_what_it_does_not_take(logits):
    with pytest.raises(UserError, match="The fused router has no kernel for"):
        fused_route(logits, Router(), 1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("M", "E", "topk"), [(16387, 256, 8), (5000, 128, 4), (4099, 384, 6)])
def test_many_random_rows_are_routed_right(M, E, topk, dtype, poison):
    """Sizes past every tile; random fp32 rows take both ways of choosing, random bf16 rows are full of ties."""
    logits = torch.randn(M, E, device="cuda", generator=torch.Generator("cuda").manual_seed(M)).to(dtype)
    weights, ids = fused_route(logits, Router("softmax"), topk)
    assert ids.tolist() == lower_id_first(logits.float(), topk)
    expected = logits.double().gather(1, ids.long()).softmax(-1).float()
    torch.testing.assert_close(weights, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.gpu
def test_many_random_rows_are_grouped_right(poison):
    """A chosen expert may differ from fp64's only where their biased scores nearly tie."""
    m = MODELS["deepseek-v3"]
    logits = torch.randn(16387, m.E, device="cuda", generator=torch.Generator("cuda").manual_seed(3))
    bias = bias_of(m.E, "cuda")
    ids, expected = (rule(logits, m.router, m.topk, bias).topk_ids.long() for rule in (fused_route, route))
    ranking = logits.double().sigmoid() + bias
    different = (ids != expected).any(dim=1)
    assert different.float().mean() < 1e-3
    gap = (ranking.gather(1, ids) - ranking.gather(1, expected)).abs().amax(dim=1)
    assert (gap > 1e-6).sum() <= 2  # two groups that nearly tie
    assert bool((ids.sort(dim=1).values.diff(dim=1) > 0).all())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])
def test_a_captured_graph_routes_new_logits(name):
    m, bias = MODELS[name], bias_of(MODELS[name].E, "cuda")
    logits = distinct_logits(64, m.E, torch.bfloat16, "cuda")
    fused_route(logits, m.router, m.topk, bias)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = fused_route(logits, m.router, m.topk, bias)
    for seed in (1, 2):
        logits.copy_(distinct_logits(64, m.E, torch.bfloat16, "cuda", seed))
        graph.replay()
        assert_same(result, route(logits, m.router, m.topk, bias))
