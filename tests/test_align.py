import itertools

import pytest

torch = pytest.importorskip("torch")

from moe_lab import plugins, routing  # noqa: E402
from moe_lab.align import capacity  # noqa: E402

# M, E, topk, block_m and why.
CASES = [
    (1, 1, 1, 16, "one pair, one expert"),
    (1, 128, 8, 16, "fewer pairs than experts: the capacity is pairs * block_m"),
    (33, 8, 2, 64, "one tile an expert, a chunk that is half full"),
    (257, 16, 6, 17, "block_m that is no power of two, many chunks, an odd tail"),
    (70, 7, 7, 32, "topk = E, E no power of two"),
    (128, 2, 1, 128, "one full chunk exactly"),
    (20, 300, 4, 16, "E above 256, most experts empty"),
    (0, 8, 2, 16, "no tokens"),
]
IDS = [f"T{M}-E{E}-topk{topk}-block{block_m}" for M, E, topk, block_m, _ in CASES]


def check(topk_ids, block_m, E, alignment):
    """Compare with groups made by hand, expert by expert, as sets."""
    pairs = topk_ids.flatten().tolist()
    total = int(alignment.num_tokens_post_padded)
    rows = alignment.sorted_token_ids.tolist()
    tiles = alignment.expert_ids.tolist()
    assert alignment.num_tokens_post_padded.shape == (1,)
    assert len(rows) == capacity(len(pairs), block_m, E)
    assert {t.dtype for t in alignment} == {torch.int32}
    at = 0
    for expert in range(E):
        mine = {i for i, e in enumerate(pairs) if e == expert}
        padded = -(-len(mine) // block_m) * block_m
        group = rows[at : at + padded]
        assert sorted(group) == sorted(mine) + [len(pairs)] * (padded - len(mine))
        assert tiles[at // block_m : (at + padded) // block_m] == [expert] * (padded // block_m)
        at += padded
    assert total == at


@pytest.mark.parametrize("name", plugins.names("align"))
@pytest.mark.parametrize("spec", ["uniform", "hot"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_align_groups_every_pair_once(name, spec, case, device, poison):
    M, E, topk, block_m, _ = case
    ids = routing.synthetic(spec, M, E, topk, seed=M + E, device=device).topk_ids
    check(ids, block_m, E, plugins.load("align", name).align(ids, block_m, E))


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_takes_64_bit_ids_as_torch_topk_makes_them(name, device, poison):
    ids = routing.synthetic("zipf:1.2", 50, 12, 3, seed=1, device=device).topk_ids.long()
    check(ids, 16, 12, plugins.load("align", name).align(ids, 16, 12))


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_holds_1024_experts(name, device, poison):
    ids = torch.tensor([[0, 1023], [512, 1023]], dtype=torch.int32, device=device)
    check(ids, 16, 1024, plugins.load("align", name).align(ids, 16, 1024))


def test_counting_sort_scans_more_chunks_than_a_tile_holds(device, poison, monkeypatch):
    """A scan tile of 4 chunks here; with the real 1024 it takes 131072 pairs, which only a GPU does quickly."""
    counting_sort = pytest.importorskip("moe_lab.kernels.counting_sort")
    monkeypatch.setattr(counting_sort, "TILE", 4)
    ids = routing.synthetic("zipf:1.0", 700, 6, 2, seed=2, device=device).topk_ids  # 11 chunks; 12 tiles an expert
    check(ids, 16, 6, plugins.load("align", "counting_sort").align(ids, 16, 6))


@pytest.mark.parametrize("name", [n for n in plugins.names("align") if plugins.info("align", n)["deterministic"]])
def test_align_that_says_deterministic_keeps_the_pair_order(name, device):
    ids = routing.synthetic("uniform", 300, 4, 2, device=device).topk_ids
    rows, _, total = plugins.load("align", name).align(ids, 16, 4)
    experts = ids.flatten().tolist()
    real = [r for r in rows[: int(total)].tolist() if r < len(experts)]
    assert real == sorted(real, key=lambda pair: (experts[pair], pair))


def test_capacity_is_reached_by_the_worst_routing_and_never_passed():
    for numel, block_m, E in itertools.product((1, 5, 40), (1, 16), (1, 7, 64)):
        worst = [e if e < min(numel, E) else 0 for e in range(numel)]  # as many experts as possible get one row
        padded = sum(-(-worst.count(e) // block_m) * block_m for e in range(E))
        assert padded <= capacity(numel, block_m, E)
    assert capacity(5, 16, 64) == 5 * 16
    assert capacity(40, 16, 7) == 40 + 7 * 15


@pytest.mark.gpu
@pytest.mark.parametrize("name", plugins.names("align"))
@pytest.mark.parametrize("T", [1, 512, 40000], ids="T{}".format)
def test_align_works_in_a_cuda_graph_without_waiting_for_the_gpu(name, T, device):
    align = plugins.load("align", name).align
    first, second = (routing.synthetic("zipf:1.0", T, 128, 8, seed=s, device=device).topk_ids for s in (0, 1))
    static = first.clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        align(static, 64, 128)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        align(static, 64, 128)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = align(static, 64, 128)
    for ids in (second, first):
        static.copy_(ids)
        graph.replay()
        check(ids, 64, 128, result)
