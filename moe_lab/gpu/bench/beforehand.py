# SPDX-License-Identifier: Apache-2.0
"""What a benchmark refuses, or says, before it draws weights and starts the processes that measure."""

from collections.abc import Sequence

import torch

from moe_lab.gpu.bench.examine import refuse
from moe_lab.gpu.workloads.window import say
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem

WEIGHTS, FLOPS = 2**27, 2**33  # of a layer and of a call: what a CPU draws and computes in seconds


def small_on_cpu(problems: Sequence[MoEProblem], kind: str, *, ranks: int = 1) -> None:
    """Say what the CPU is for, and raise UserError for a layer or a call that would take it minutes.

    Args:
        problems: what is to be measured; M is that of one rank.
        kind: of the device; nothing is said of ``cuda``.
        ranks: processes that share the CPU, each with the weights of all experts for the check.
    """
    if kind != "cpu":
        return
    for p in problems:
        weights, flops = p.E * p.K * (p.rows13 + p.N), ranks * p.useful_flops()
        if ranks * weights > WEIGHTS:
            have = f"{p.model or 'The layer'} has {weights:,} weights" + (f" on each of {ranks} ranks" * (ranks > 1))
            raise UserError(
                f"{have}, too many for the CPU, which is for checking; give --model as a small KxNxExTOPK, such as "
                "64x32x8x2."
            )
        if flops > FLOPS:
            raise UserError(f"M={p.M} is too much for the CPU, which is for checking; give a smaller --m, such as 8.")
    say("The CPU checks results; its times say nothing about a GPU.")


def one_takes(backends: Sequence[str], problems: Sequence[MoEProblem], kind: str) -> None:
    """Raise UserError if every backend refuses every problem by what it states: there would be nothing to measure."""
    said = [
        why
        for backend in backends
        if (info := plugins.info("experts", backend.partition("@")[0]))
        for why in [_refused(backend, info, problem, kind) for problem in problems]
    ]
    if said and all(said):
        raise UserError(" ".join(dict.fromkeys(map(str, said))))


def _refused(backend: str, info: dict[str, object], problem: MoEProblem, kind: str) -> str | None:
    try:
        refuse(backend, info, problem, torch.device(kind))
    except UserError as error:
        return str(error)
    return None
