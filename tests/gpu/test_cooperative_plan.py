"""How pairs are spread over a GPU: arithmetic, so it needs none."""

import itertools

import pytest

pytest.importorskip("triton")

from moe_lab.gpu.align.cooperative import MOST_BLOCKS, plan, scratch, shared_bytes


@pytest.mark.parametrize("most_blocks", [16, 108, 128], ids="SMs{}".format)
def test_plan_holds_all_pairs_in_blocks_that_run_together(most_blocks):
    """From one pair to beyond what fits, experts up to the kernel's 1024; an A100 has 108 multiprocessors."""
    for numel, E in itertools.product((1, 512, 513, 8192, 65536, 524288, 2097152, 2097153), (1, 64, 500, 1024)):
        chosen = plan(numel, E, most_blocks)
        if chosen is None:
            assert numel > 16 * 1024 * most_blocks
            continue
        assert chosen.blocks <= most_blocks
        assert (
            chosen.threads * chosen.items * chosen.blocks >= numel > chosen.threads * chosen.items * (chosen.blocks - 1)
        )
        assert chosen.threads >= E
        assert chosen.threads * chosen.items < 1 << 15  # counts are published in 15 bits


def test_plan_keeps_to_the_shared_memory_of_a_block():
    """99 KiB: Ada and consumer Ampere; 1024 experts and 16 pairs a thread would take 147 KB."""
    assert plan(2000000, 1024, 128) is not None
    assert plan(2000000, 1024, 128, 99 * 1024) is None
    chosen = plan(500000, 256, 128, 99 * 1024)
    assert chosen is not None
    assert shared_bytes(chosen, 256) <= 99 * 1024


def test_scratch_covers_the_plan_of_any_gpu():
    """Fewer multiprocessors make fewer, larger blocks, so the largest grid sizes the scratch."""
    for numel, E in itertools.product((1500, 9000, 131072, 524288), (8, 256, 1024)):  # more than one block each
        words = {plan(numel, E, sms).blocks * max(64, E) // 4 for sms in (64, 108, 132)}
        assert scratch(numel, E) >= MOST_BLOCKS + 2 * max(words)
