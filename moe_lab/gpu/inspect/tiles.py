# SPDX-License-Identifier: Apache-2.0
"""``python -m moe_lab.gpu tune --static``: compile the tiles that a tuning would try, for GPUs that are not here."""

import argparse
import os
from collections.abc import Iterator
from typing import Any

from moe_lab.gpu.bench.tune import search
from moe_lab.gpu.bench.tune.case import centres
from moe_lab.gpu.bench.tune.command import limits_of
from moe_lab.gpu.inspect.cases import Case
from moe_lab.gpu.inspect.command import KEY, compiled, ended, header, opened
from moe_lab.spec import architectures, formats
from moe_lab.spec.architectures import Card
from moe_lab.spec.bench_options import numbers
from moe_lab.spec.configs import text
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compile ``options.candidates`` tiles for each architecture of ``options.static``, M, GEMM and block_m.

    Raises:
        UserError: an unknown architecture, model or format, or a missing output folder.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UserError("With TRITON_INTERPRET=1 there is nothing to compile; unset it.")
    formats.get(options.format)
    tokens, cards = numbers(options.m, least=1), architectures.listed(options.static)
    cases = {card: list(_cases(options, card, tokens)) for card in cards}
    with opened(options.out, header("tune", (*KEY, "part", "tile"), options, cards)) as file:
        return ended(file, compiled(cases, options, file, "own"))


def _cases(options: argparse.Namespace, card: Card, tokens: list[int]) -> Iterator[Case]:
    limits = limits_of(options.backend, options.format, card.smem_block_bytes, card if card.amd else None)
    for M in tokens:
        problem = MoEProblem.preset(options.model, M, options.format)
        own = centres(options.backend, problem)
        for (part, block_m), tiles in search.plan(problem, own, limits, None).items():
            # group_m only orders the tiles, so it does not change what the compiler allocates.
            alike = dict.fromkeys((*tile[:3], own[block_m][3], *tile[4:]) for tile in tiles)
            for tile in list(alike)[: options.candidates]:
                yield Case("experts", options.backend, options.model, options.format, M, part, text(tile))
