import math

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import routing
from moe_lab.spec.errors import UserError
from moe_lab.spec.models import MODELS, Router


def test_softmax_topk_renormalises_what_it_chose():
    logits = torch.tensor([[0.0, math.log(2), math.log(4), math.log(1)]])  # softmax: 1/8, 2/8, 4/8, 1/8
    weights, ids = routing.route(logits, Router("softmax"), 2)
    assert ids.tolist() == [[2, 1]]
    assert weights.tolist()[0] == pytest.approx([4 / 6, 2 / 6])
    weights, _ = routing.route(logits, Router("softmax", renormalise=False, scaling=2.0), 2)
    assert weights.tolist()[0] == pytest.approx([2 * 4 / 8, 2 * 2 / 8])


def test_softmax_over_the_chosen_leaves_the_others_out():
    logits = torch.tensor([[0.0, math.log(3), math.log(1e6)]])
    weights, ids = routing.route(logits, MODELS["gpt-oss-120b"].router, 2)
    assert ids.tolist() == [[2, 1]]
    assert weights.tolist()[0] == pytest.approx([1e6 / (1e6 + 3), 3 / (1e6 + 3)])


def deepseek_by_hand(logits, bias, router, topk):
    """The rule of arXiv 2412.19437, 2.1.2, one token at a time in plain Python."""
    chosen = []
    for row in logits.tolist():
        score = [1 / (1 + math.exp(-v)) for v in row]
        biased = [s + b for s, b in zip(score, bias.tolist(), strict=True)]
        size = len(row) // router.groups
        groups = [range(g * size, (g + 1) * size) for g in range(router.groups)]
        groups.sort(key=lambda g: -sum(sorted((biased[e] for e in g), reverse=True)[:2]))
        allowed = [e for g in groups[: router.topk_groups] for e in g]
        ids = sorted(allowed, key=lambda e: -biased[e])[:topk]
        total = sum(score[e] for e in ids)
        chosen.append({e: score[e] / total * router.scaling for e in ids})
    return chosen


@pytest.mark.parametrize("name", ["deepseek-v3", "kimi-k2", "glm-4.5"])
def test_sigmoid_routing_follows_the_paper(name):
    m, g = MODELS[name], torch.Generator().manual_seed(5)
    logits, bias = torch.randn(20, m.E, generator=g), torch.randn(m.E, generator=g)
    weights, ids = routing.route(logits, m.router, m.topk, bias)
    for w, i, expected in zip(
        weights.tolist(), ids.tolist(), deepseek_by_hand(logits, bias, m.router, m.topk), strict=True
    ):
        assert dict(zip(i, w, strict=True)) == pytest.approx(expected, rel=1e-5)


def test_bias_chooses_but_does_not_weigh():
    logits, bias = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([-9.0, 0.0, 9.0])
    weights, ids = routing.route(logits, Router("sigmoid", bias=True), 2, bias)
    assert ids.tolist() == [[2, 1]]
    assert weights.tolist()[0] == pytest.approx([0.5, 0.5])


def test_route_says_what_is_missing():
    with pytest.raises(UserError, match="pass bias"):
        routing.route(torch.zeros(1, 4), Router("sigmoid", bias=True), 2)
    with pytest.raises(UserError, match="cannot give topk=4"):
        routing.route(torch.zeros(1, 8), Router("sigmoid", groups=4, topk_groups=1), 4)


@pytest.mark.parametrize("spec", ["uniform", "zipf:1.5", "balanced", "hot"])
@pytest.mark.parametrize(("M", "E", "topk"), [(50, 16, 4), (9, 5, 5), (7, 1, 1), (0, 8, 2)])
def test_synthetic_tokens_pick_distinct_experts_and_weights_that_sum_to_the_scaling(spec, M, E, topk):
    weights, ids = routing.synthetic(spec, M, E, topk, seed=3, scaling=2.5)
    assert ids.shape == weights.shape == (M, topk)
    assert (ids.dtype, weights.dtype) == (torch.int32, torch.float32)
    assert all(len(set(row)) == topk and min(row) >= 0 and max(row) < E for row in ids.tolist())
    assert torch.allclose(weights.sum(dim=1), torch.full((M,), 2.5))


def test_synthetic_is_fixed_by_its_seed():
    first, again, other = (routing.synthetic("zipf:1.0", 40, 16, 4, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.topk_ids, other.topk_ids)


def counts(spec, M, E, topk):
    return routing.synthetic(spec, M, E, topk, seed=0).topk_ids.flatten().long().bincount(minlength=E)


def test_balanced_gives_every_expert_floor_or_ceil_of_the_mean():
    assert set(counts("balanced", 33, 8, 3).tolist()) == {99 // 8, 99 // 8 + 1}


def test_hot_sends_every_token_to_one_expert_and_the_rest_anywhere():
    ordered = counts("hot", 2000, 8, 2).sort(descending=True).values.tolist()
    assert ordered[0] == 2000
    assert ordered[1] < 1.3 * 2000 / 7  # six deviations above the mean of the seven others


def test_zipf_popularity_falls_as_rank_to_the_minus_s():
    """With topk = 1 nothing is excluded, so counts are the distribution itself: r ** -1 / H_8."""
    ordered = counts("zipf:1.0", 40_000, 8, 1).sort(descending=True).values.double() / 40_000
    expected = torch.arange(1, 9).double().reciprocal()
    assert torch.allclose(ordered, expected / expected.sum(), rtol=0.08)


def test_zipf_with_exponent_zero_is_uniform():
    assert counts("zipf:0", 40_000, 8, 1).double().div(5000).sub(1).abs().max() < 0.08


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_replay_returns_the_first_tokens_of_what_was_saved(suffix, tmp_path):
    ids = routing.synthetic("uniform", 20, 16, 4, seed=9).topk_ids
    routing.save_topk_ids(ids, tmp_path / f"ids{suffix}")
    again = routing.synthetic(f"replay:{tmp_path / f'ids{suffix}'}", 12, 16, 4).topk_ids
    assert torch.equal(again, ids[:12])
    assert [p.name for p in tmp_path.iterdir()] == [f"ids{suffix}"]


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(4, 2), "must hold integer topk_ids"),
        (torch.zeros(4, dtype=torch.int32), "must hold integer topk_ids"),
        (torch.tensor([[0, 1]]), "1 tokens x topk 2; this run needs 2 x 2"),
        (torch.tensor([[0, 1, 2], [0, 1, 2]]), "2 tokens x topk 3; this run needs 2 x 2"),
        (torch.tensor([[0, 1], [0, 8]]), "this model has experts 0 to 7"),
        (torch.tensor([[0, 1], [0, -1]]), "expert ids -1 to 1"),
        (torch.tensor([[0, 1], [3, 3]]), "with one expert twice"),
    ],
)
def test_replay_refuses_a_file_that_does_not_fit(tensor, sentence, tmp_path):
    torch.save(tensor, tmp_path / "ids.pt")
    with pytest.raises(UserError, match=sentence):
        routing.synthetic(f"replay:{tmp_path / 'ids.pt'}", 2, 8, 2)


def test_replay_says_what_is_wrong_with_the_file_itself(tmp_path):
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    torch.save({"ids": 1}, tmp_path / "dict.pt")
    for name, sentence in {
        "none.pt": "There is no file .* with topk_ids",
        "none.npy": "There is no file .* with topk_ids",
        "ids.csv": "reads topk_ids from .pt or .npy",
        "torn.pt": "Cannot read 'torn.pt'",
        "torn.npy": "Cannot read 'torn.npy'",
        "dict.pt": "holds a dict",
    }.items():
        with pytest.raises(UserError, match=sentence):
            routing.load_topk_ids(tmp_path / name, 1, 8, 2)


def test_save_refuses_a_place_it_cannot_write(tmp_path):
    with pytest.raises(UserError, match="choose a folder that exists"):
        routing.save_topk_ids(torch.zeros(1, 1), tmp_path / "missing" / "ids.pt")
    with pytest.raises(UserError, match="Save topk_ids as"):
        routing.save_topk_ids(torch.zeros(1, 1), tmp_path / "ids.txt")


@pytest.mark.parametrize(
    "text", ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:inf", "zipf:nan", "uniform:2", "replay:"]
)
def test_parse_spec_refuses_what_it_does_not_know(text):
    with pytest.raises(UserError, match="write one of: uniform"):
        routing.parse_spec(text)
