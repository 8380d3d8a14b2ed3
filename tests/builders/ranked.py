"""Ranks as processes on the CPU, with gloo between them."""

import multiprocessing
from datetime import timedelta

import torch
from torch import distributed


def run(ranks, call, folder, timeout_s=20):
    """Return [call(rank) of each rank], each in a process of its own; fails with what the first of them raised."""
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    processes = [context.Process(target=_one, args=(r, ranks, call, folder, timeout_s, said)) for r in range(ranks)]
    for process in processes:
        process.start()
    found = dict(said.get() for _ in processes)
    for process in processes:
        process.join()
    failed = [value for value in found.values() if isinstance(value, Exception)]
    assert not failed, failed
    return [found[rank] for rank in range(ranks)]


def _one(rank, ranks, call, folder, timeout_s, said):
    torch.set_num_threads(1)  # a forked process has no threads of its parent's pool
    store = f"file://{folder / 'store'}"
    try:
        distributed.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s)
        )
        said.put((rank, call(rank)))
    except Exception as error:
        said.put((rank, RuntimeError(f"rank {rank}: {error!r}")))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
