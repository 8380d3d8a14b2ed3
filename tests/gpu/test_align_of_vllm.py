"""vLLM's align & sort around an operator in plain torch; on a GPU test_align holds the real one to the reference."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import routing
from moe_lab.gpu.align import torch_ref, vllm
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.plugins import load


def moe_align_block_size(ids, E, block_m, rows, experts, total, expert_map):
    """With a map only pairs of this rank are counted; behind the last tile stands what is no expert."""
    found = torch_ref.align(ids, block_m, E, expert_map=expert_map, remote="drop")
    for target, source in zip((rows, experts, total), found, strict=True):
        target.copy_(source)
    experts[int(total) // block_m :] = -7


@pytest.mark.parametrize("remote", [None, "drop", "tiles"])
def test_vllms_align_gets_its_arguments_in_order(remote, monkeypatch, poison):
    monkeypatch.setattr(vllm, "_library", lambda: SimpleNamespace(moe_align_block_size=moe_align_block_size))
    local = torch.tensor(Parallel(((0, 2), (3, 1)), rank=1).expert_map(), dtype=torch.int32)
    ids = routing.synthetic("uniform", 9, 4, 2, seed=0).topk_ids
    how = {"expert_map": local, "remote": remote} if remote else {}
    got, want = vllm.align(ids, 4, 4, **how), torch_ref.align(ids, 4, 4, **how)
    rows = int(want.num_tokens_post_padded)
    assert int(got.num_tokens_post_padded) == rows
    assert torch.equal(got.expert_ids[: rows // 4], want.expert_ids[: rows // 4])
    assert torch.equal(got.sorted_token_ids[:rows], want.sorted_token_ids[:rows])


def test_vllms_align_says_how_to_get_its_library():
    with pytest.raises(UserError, match=r"needs marlin \(moe-lab peers add vllm==0\.33\.0\)"):
        load("align", "vllm")
