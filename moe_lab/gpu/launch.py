# SPDX-License-Identifier: Apache-2.0
"""Ranks as processes of this host: started by torch's launcher (torchrun's own), joined to one process group."""

import argparse
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from moe_lab.gpu.workloads.window import say
from moe_lab.spec.errors import REFUSED, UserError, of_child
from moe_lab.spec.guard.children import died

SILENT_S = 2.0  # of ranks that refuse, for rank 0 to say it


def is_rank(ranks: int) -> bool:
    """Return whether a launcher started this process as one of ``ranks``: torchrun from outside may, too."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE") == str(ranks)


def check(ranks: int, device: str) -> None:
    """Raise UserError if this host has not a GPU for each rank."""
    found = torch.cuda.device_count() if device == "cuda" else ranks
    if not found:
        raise UserError("No GPU is visible to torch, and each rank needs one; --device cpu checks small sizes.")
    if found < ranks:
        raise UserError(f"{ranks} ranks need as many GPUs, and torch sees {found}; lower --ranks.")


def again(options: argparse.Namespace) -> None:
    """Run this process's own command once as each of its ``--ranks``; see ``start``."""
    check(options.ranks, options.device)
    start(options.ranks, [sys.executable, "-m", "moe_lab.gpu", *options.words])


def start(ranks: int, argv: Sequence[str]) -> None:
    """Run a command once as each rank and wait for all; if one of them stops, the others are ended.

    Args:
        ranks: how many.
        argv: the command; it finds its number in RANK and LOCAL_RANK.

    Raises:
        UserError: names the rank that stopped first, and how; RefusedError if it has said why.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the sentence below says it
    one_host = {"min_nodes": 1, "max_nodes": 1, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = LaunchConfig(
        nproc_per_node=ranks,
        run_id="moe_lab",
        max_restarts=0,
        local_addr="localhost",
        **one_host,  # type: ignore[arg-type]
    )
    try:
        elastic_launch(config, argv[0])(*argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said = f"Rank {rank} {died(failure.exitcode)}, see its message above; the other ranks were ended."
        raise of_child(failure.exitcode, said) from None
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from None


@contextmanager
def joined(kind: str, patience_s: int) -> Iterator[tuple[int, torch.device]]:
    """Join this rank to the default process group and yield its number and device; leave it at the end.

    If the work fails, the process ends at once: others may wait for this rank on their GPU, and so might an orderly
    end of this one.

    Args:
        kind: ``cuda``: NCCL, a GPU for each rank; ``cpu``: gloo.
        patience_s: how long to wait for another rank.
    """
    rank, gpu = int(os.environ["RANK"]), kind == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)  # ranks share the cores
    try:
        late = timedelta(seconds=patience_s)
        distributed.init_process_group("nccl" if gpu else "gloo", timeout=late, device_id=device if gpu else None)
        yield rank, device
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        if rank and isinstance(error, UserError):
            time.sleep(SILENT_S)  # if all ranks refuse, rank 0 says it, and the launcher ends this one meanwhile
        say(f"Rank {rank} stops: {error}")
        os._exit(REFUSED if isinstance(error, UserError) else 1)
    distributed.destroy_process_group()
