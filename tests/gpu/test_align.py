import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from moe_lab.gpu import routing
from moe_lab.gpu.align import torch_ref, workspace
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import capacity

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


def algorithm(name, ids, E=1):
    """The plugin's function; skips an algorithm that takes fewer pairs, what the interpreter is slow at, and CUDA."""
    info = plugins.info("align", name)
    if ("cuda.core" in info["needs"] or name == "vllm") and not ids.is_cuda:
        pytest.skip("CUDA C++: only on a GPU")
    if reason := plugins.unavailable("align", name):
        pytest.skip(reason)
    if name == "triton_4stage" and E > 200 and not ids.is_cuda:
        pytest.skip("a program per expert and stage: only on a GPU")
    most = info.get("most_pairs")
    if most is not None and ids.numel() > most:
        pytest.skip(f"takes up to {most} pairs")
    return plugins.load("align", name).align


def meaning(alignment, block_m, numel):
    """What an alignment says, for a comparison: (total, expert ids, rows of each group as sorted pairs)."""
    total = int(alignment.num_tokens_post_padded)
    tiles = alignment.expert_ids[: total // block_m].long()
    rows = alignment.sorted_token_ids[:total].long()
    # Groups of equal experts lie next to each other, -1 tiles too: number the runs.
    run = torch.cat([tiles.new_zeros(min(1, len(tiles))), (tiles[1:] != tiles[:-1]).long().cumsum(0)])
    keys = run.repeat_interleave(block_m) * (numel + 1) + rows
    return total, tiles.tolist(), keys.sort().values


def check_like_reference(name, ids, block_m, E, **options):
    """Compare with torch_ref, on the CPU; all of sorted_token_ids in order where the algorithm says it keeps it."""
    got = algorithm(name, ids)(ids, block_m, E, **options)
    options = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    want = torch_ref.align(ids.cpu(), block_m, E, **options)
    got = type(got)(*(t.cpu() for t in got))
    found, expected = meaning(got, block_m, ids.numel()), meaning(want, block_m, ids.numel())
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])
    if plugins.info("align", name)["deterministic"]:
        assert torch.equal(got.sorted_token_ids[: found[0]], want.sorted_token_ids[: found[0]])


@pytest.mark.parametrize("name", plugins.names("align"))
@pytest.mark.parametrize("spec", ["uniform", "hot"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_align_groups_every_pair_once(name, spec, case, device, poison):
    M, E, topk, block_m, _ = case
    ids = routing.synthetic(spec, M, E, topk, seed=M + E, device=device).topk_ids
    check(ids, block_m, E, algorithm(name, ids, E)(ids, block_m, E))


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_takes_64_bit_ids_as_torch_topk_makes_them(name, device, poison):
    ids = routing.synthetic("zipf:1.2", 50, 12, 3, seed=1, device=device).topk_ids.long()
    check(ids, 16, 12, algorithm(name, ids)(ids, 16, 12))


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_holds_1024_experts(name, device, poison):
    ids = torch.tensor([[0, 1023], [512, 1023]], dtype=torch.int32, device=device)
    check(ids, 16, 1024, algorithm(name, ids, 1024)(ids, 16, 1024))


@pytest.mark.parametrize("name", [n for n in plugins.names("align") if plugins.info("align", n).get("deterministic")])
def test_align_that_says_deterministic_keeps_the_pair_order(name, device):
    ids = routing.synthetic("uniform", 300, 4, 2, device=device).topk_ids
    rows, _, total = algorithm(name, ids)(ids, 16, 4)
    experts = ids.flatten().tolist()
    real = [r for r in rows[: int(total)].tolist() if r < len(experts)]
    assert real == sorted(real, key=lambda pair: (experts[pair], pair))


ALGORITHMS = [n for n in plugins.names("align") if n != "torch_ref"]
DROPPING = [n for n in plugins.names("align") if plugins.info("align", n).get("drops", True)]


@pytest.mark.parametrize("name", DROPPING)
def test_align_leaves_dropped_pairs_out(name, device, poison):
    """Pairs with id -1, as a router with a capacity makes them; one expert has only dropped pairs, and so has a token.

    The expected groups are written by hand, so that the reference is held to them too.
    """
    ids = torch.tensor([[0, -1, 2], [-1, -1, -1], [2, 0, 3], [3, -1, 0]], dtype=torch.int32, device=device)
    rows, tiles, total = algorithm(name, ids)(ids, 4, 5)
    assert int(total) == 12
    assert [sorted(rows[i : i + 4].tolist()) for i in (0, 4, 8)] == [[0, 7, 11, 12], [2, 6, 12, 12], [8, 9, 12, 12]]
    assert tiles[:3].tolist() == [0, 2, 3]


@pytest.mark.parametrize("name", DROPPING)
def test_align_of_only_dropped_pairs_is_empty(name, device, poison):
    ids = torch.full((9, 2), -1, dtype=torch.int32, device=device)
    assert int(algorithm(name, ids)(ids, 16, 6).num_tokens_post_padded) == 0


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_maps_experts_of_other_ranks_as_asked(name, device, poison):
    """Rank 1 has experts 3, 1 of 4, under the local numbers 0, 1: by hand, in both ways."""
    ids = torch.tensor([[0, 1], [3, 2], [1, 3]], dtype=torch.int32, device=device)
    local = torch.tensor(Parallel(((0, 2), (3, 1)), rank=1).expert_map(), dtype=torch.int32, device=device)
    align = algorithm(name, ids)
    rows, tiles, total = align(ids, 2, 4, expert_map=local, remote="drop")
    assert int(total) == 4
    assert tiles[:2].tolist() == [0, 1]
    assert [sorted(rows[i : i + 2].tolist()) for i in (0, 2)] == [[2, 5], [1, 4]]
    rows, tiles, total = align(ids, 2, 4, expert_map=local, remote="tiles")
    assert int(total) == 8
    assert tiles[:4].tolist() == [-1, 1, -1, 0]
    assert [sorted(rows[i : i + 2].tolist()) for i in (0, 2, 4, 6)] == [[0, 6], [1, 4], [3, 6], [2, 5]]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("remote", ["drop", "tiles"])
def test_align_with_an_expert_map_agrees_with_the_reference(name, remote, device, poison):
    """Every third expert is ours; more experts than one program of one_launch or multi_block lays out."""
    E = 129
    thirds = tuple(tuple(range(first, E, 3)) for first in range(3))
    local = torch.tensor(Parallel(thirds).expert_map(), dtype=torch.int32)
    M = plugins.info("align", name).get("most_pairs", 2000) // 40
    ids = routing.synthetic("zipf:0.7", M, E, 5, seed=3).topk_ids
    if name in DROPPING:
        ids[::7, 0] = -1
    check_like_reference(name, ids.to(device), 16, E, expert_map=local.to(device), remote=remote)


@pytest.mark.parametrize("name", ["multi_block", "auto", "one_launch"])
@pytest.mark.parametrize("spec", ["uniform", "zipf:1.2", "hot"])
@pytest.mark.parametrize(
    "M",
    [
        pytest.param(1000, id="several-chunks-one-launch-less"),
        pytest.param(4500, id="over-8192-pairs"),
        pytest.param(8300, id="over-16384-pairs-a-scan"),
    ],
)
def test_align_of_many_pairs_agrees_with_the_reference(name, spec, M, device, poison):
    """multi_block: chunks of 64, of 128, and 130 of them, whose counts a launch of their own adds up."""
    ids = routing.synthetic(spec, M, 20, 2, seed=M, device=device).topk_ids
    check_like_reference(name, ids, 32, 20)


def test_multi_block_scan_carries_over_its_tiles(device, poison, monkeypatch):
    """A tile of 64 rows here, so three tiles of 130 chunks; with the real 1024 it takes 131072 pairs."""
    multi_block = pytest.importorskip("moe_lab.gpu.align.multi_block")
    monkeypatch.setattr(multi_block, "MOST_ROWS", 64)
    ids = routing.synthetic("zipf:1.0", 8300, 9, 2, seed=2, device=device).topk_ids
    check_like_reference("multi_block", ids, 16, 9)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_align_agrees_with_the_reference_on_any_input(name, device):
    most = plugins.info("align", name).get("most_pairs", 400)

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check_any(data):
        E = data.draw(st.integers(1, 40), "E")
        topk = data.draw(st.integers(1, 6), "topk")
        M = data.draw(st.integers(0, min(most, 400) // topk), "M")
        block_m = data.draw(st.sampled_from([1, 3, 16, 100]), "block_m")
        seed = data.draw(st.integers(0, 99), "seed")
        lowest = data.draw(st.sampled_from([*([-1] if name in DROPPING else []), 0, E - 1]), "lowest id")
        dtype = data.draw(st.sampled_from([torch.int32, torch.int64]), "dtype")
        # Ids may repeat inside a token: no algorithm relies on the router's promise.
        ids = torch.randint(lowest, E, (M, topk), generator=torch.Generator().manual_seed(seed)).to(dtype)
        check_like_reference(name, ids.to(device), block_m, E)

    check_any()


@pytest.mark.parametrize("name", plugins.names("align"))
def test_align_writes_into_given_memory(name, device):
    ids = routing.synthetic("uniform", 8, 16, 4, seed=4, device=device).topk_ids
    align = algorithm(name, ids)
    out = workspace(plugins.load("align", name), ids, 16, 16)
    for other in (ids, ids.flip(0), (ids + 5) % 16):  # the memory serves one call after the other
        result = align(other.contiguous(), 16, 16, out=out)
        assert [t.data_ptr() for t in result] == [t.data_ptr() for t in out.alignment]
        check(other, 16, 16, result)


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if "most_pairs" in plugins.info("align", n)])
def test_align_refuses_more_pairs_than_it_takes(name, device):
    ids = torch.zeros(plugins.info("align", name)["most_pairs"] + 1, 1, dtype=torch.int32, device=device)
    with pytest.raises(UserError, match="use 'auto'"):
        plugins.load("align", name).align(ids, 16, 4)


@pytest.mark.parametrize("name", plugins.names("align"))
@pytest.mark.parametrize(
    ("ids", "block_m", "E", "message"),
    [
        (torch.zeros(2, 2), 16, 4, "int32 or int64"),
        (torch.zeros(2, 4, dtype=torch.int32)[:, ::2], 16, 4, "contiguous"),
        (torch.zeros(2, 2, dtype=torch.int32), 16, 1025, "E must be in 1..1024"),
        (torch.zeros(2, 2, dtype=torch.int32), 0, 4, "block_m must be at least 1"),
    ],
    ids=["float", "gaps", "E1025", "block0"],
)
def test_align_refuses_what_it_would_get_wrong(name, ids, block_m, E, message, device):
    with pytest.raises(ValueError, match=message):
        algorithm(name, ids.to(device))(ids.to(device) if ids.is_contiguous() else ids, block_m, E)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("E", "topk"), [(64, 6), (128, 8), (256, 8), (1024, 8)], ids=lambda v: str(v))
@pytest.mark.parametrize("M", [64, 1024, 4096, 16384, 65536], ids="M{}".format)
def test_align_agrees_with_the_reference_at_real_sizes(name, M, E, topk, device, poison):
    """Sizes with many thread blocks and warps, which the interpreter does not have: races show here only."""
    for spec in ("uniform", "zipf:1.0", "hot"):
        ids = routing.synthetic(spec, M, E, topk, seed=M, device=device).topk_ids
        check_like_reference(name, ids, 64, E)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("M", "E", "topk"),
    [(64, 256, 8), (600, 60, 4), (4096, 256, 8), (20000, 33, 6), (16384, 1024, 8), (65536, 256, 8), (200000, 128, 8)],
    ids=lambda v: str(v),
)
def test_cooperative_keeps_its_scratch_ready_for_the_next_call(M, E, topk, device):
    """One block and every shape of thread blocks; 20 launches pass the tag's 4 bits once."""
    plugin = plugins.load("align", "cooperative")
    draws = [routing.synthetic(spec, M, E, topk, seed=M, device=device).topk_ids for spec in ("uniform", "hot")]
    want = [torch_ref.align(ids, 64, E) for ids in draws]
    out = workspace(plugin, draws[0], 64, E)
    for launch in range(20):
        got, expected = plugin.align(draws[launch % 2], 64, E, out=out), want[launch % 2]
        total = int(expected.num_tokens_post_padded)
        assert int(got.num_tokens_post_padded) == total
        assert torch.equal(got.sorted_token_ids[:total], expected.sorted_token_ids[:total])
        assert torch.equal(got.expert_ids[: total // 64], expected.expert_ids[: total // 64])


@pytest.mark.gpu
def test_cooperative_refuses_memory_of_other_sizes(device):
    plugin = plugins.load("align", "cooperative")
    ids, more = (routing.synthetic("uniform", M, 128, 8, device=device).topk_ids for M in (4096, 9000))
    with pytest.raises(ValueError, match="out is for other sizes"):
        plugin.align(more, 64, 128, out=workspace(plugin, ids, 64, 128))


@pytest.mark.gpu
def test_auto_takes_more_pairs_than_the_cooperative_launch(device):
    ids = routing.synthetic("uniform", 300000, 64, 8, device=device).topk_ids
    check_like_reference("auto", ids, 64, 64)


def test_capacity_is_reached_by_the_worst_routing_and_never_passed():
    for numel, block_m, E in itertools.product((1, 5, 40), (1, 16), (1, 7, 64)):
        worst = [e if e < min(numel, E) else 0 for e in range(numel)]  # as many experts as possible get one row
        padded = sum(-(-worst.count(e) // block_m) * block_m for e in range(E))
        assert padded <= capacity(numel, block_m, E)
    assert capacity(5, 16, 64) == 5 * 16
    assert capacity(40, 16, 7) == 40 + 7 * 15


@pytest.mark.gpu
@pytest.mark.parametrize("name", plugins.names("align"))
@pytest.mark.parametrize("T", [1, 512, 16384, 65536], ids="T{}".format)
def test_align_works_in_a_cuda_graph_without_waiting_for_the_gpu(name, T, device):
    first, second = (routing.synthetic("zipf:1.0", T, 128, 8, seed=s, device=device).topk_ids for s in (0, 1))
    align = algorithm(name, first)
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
        found, expected = (meaning(a, 64, ids.numel()) for a in (result, torch_ref.align(ids, 64, 128)))
        assert found[:2] == expected[:2]
        assert torch.equal(found[2], expected[2])
