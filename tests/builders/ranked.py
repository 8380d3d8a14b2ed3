"""Ranks as processes: on the CPU with gloo between them, or a GPU each with NCCL."""

import multiprocessing
from datetime import timedelta

import torch
from torch import distributed


def run(ranks, call, folder, timeout_s=20, gpus=False):
    """Return [call(rank) of each rank], each in a process of its own; fails with what the first of them raised.

    With ``gpus`` the call must be a function of a module: a process that has used a GPU cannot be forked.
    """
    context = multiprocessing.get_context("spawn" if gpus else "fork")
    said = context.SimpleQueue()
    given = (ranks, call, folder, timeout_s, gpus, said)
    processes = [context.Process(target=_one, args=(rank, *given)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found = dict(said.get() for _ in processes)
    for process in processes:
        process.join()
    failed = [value for value in found.values() if isinstance(value, Exception)]
    assert not failed, failed
    return [found[rank] for rank in range(ranks)]


def _one(rank, ranks, call, folder, timeout_s, gpus, said):
    torch.set_num_threads(1)  # a forked process has no threads of its parent's pool
    if gpus:
        torch.cuda.set_device(rank)
    store = f"file://{folder / 'store'}"
    try:
        distributed.init_process_group(
            *("nccl" if gpus else "gloo", store),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=timeout_s),
            device_id=torch.device("cuda", rank) if gpus else None,
        )
        said.put((rank, call(rank)))
    except Exception as error:
        said.put((rank, RuntimeError(f"rank {rank}: {error!r}")))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
