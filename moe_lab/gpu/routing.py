# SPDX-License-Identifier: Apache-2.0
"""Routing, from router logits or with a chosen skew: topk_weights [M, topk] fp32 and topk_ids [M, topk] integer.

The experts of one token are always distinct. The routing rules are those of the models' papers; synthetic routings
exist because the distribution of rows over experts decides how much of a grouped GEMM is padding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe_lab.spec.errors import UserError
from moe_lab.spec.models import Router

SPECS = "uniform, zipf:S (for example zipf:1.0), balanced, hot, replay:FILE (.pt or .npy)"


class Routing(NamedTuple):
    """What the router decided.

    Attributes:
        topk_weights: [M, topk] fp32, the weight of each chosen expert.
        topk_ids: [M, topk] int32 or int64, the chosen experts, distinct within a row.
    """

    topk_weights: Tensor
    topk_ids: Tensor


def route(logits: Tensor, router: Router, topk: int, bias: Tensor | None = None) -> Routing:
    """Apply a model's routing rule.

    Args:
        logits: [M, E], any floating dtype; scored in fp32.
        router: the rule.
        topk: experts per token.
        bias: [E] fp32, added to the score for the choice only; required if ``router.bias``.

    Returns:
        Weights and ids (int64); the experts of a token are in descending order of the score that chose them.

    Raises:
        UserError: sizes, bias or groups that do not fit the rule.
    """
    check_route(logits, router, topk, bias)
    logits = logits.float()
    if router.score == "softmax_topk":
        chosen, ids = logits.topk(topk, dim=-1)
        return Routing(_finish(chosen.softmax(dim=-1), router), ids)
    scores = logits.softmax(dim=-1) if router.score == "softmax" else logits.sigmoid()
    if not router.bias and router.groups == 1:  # the choice goes by the scores themselves: no gather is needed
        weights, ids = scores.topk(topk, dim=-1)
        return Routing(_finish(weights, router), ids)
    ranking = scores + bias if router.bias and bias is not None else scores
    if router.groups > 1:
        ranking = _keep_best_groups(ranking, router)
    ids = ranking.topk(topk, dim=-1).indices
    return Routing(_finish(scores.gather(-1, ids), router), ids)


def check_route(logits: Tensor, router: Router, topk: int, bias: Tensor | None) -> None:
    """Raise UserError unless sizes, bias and groups fit the rule."""
    if logits.ndim != 2 or not 1 <= topk <= logits.shape[1]:
        raise UserError(f"Routing needs logits [M, E] and 1 <= topk <= E; got {list(logits.shape)} and topk={topk}.")
    E, groups, kept = logits.shape[1], router.groups, router.topk_groups
    if router.bias and (bias is None or bias.shape != (E,)):
        raise UserError(f"This router chooses experts with a per-expert bias; pass bias [E], here [{E}].")
    if router.score != "softmax_topk" and groups > 1 and (E % groups or kept > groups or kept * (E // groups) < topk):
        raise UserError(f"{groups} expert groups, of which {kept} are kept, cannot give topk={topk} of E={E} experts.")


def _keep_best_groups(ranking: Tensor, router: Router) -> Tensor:
    """Set all but the best groups to -inf; a group's score is the sum of its two best (arXiv 2412.19437, 2.1.2)."""
    M, E = ranking.shape
    size = E // router.groups
    grouped = ranking.view(M, router.groups, size)
    group_scores = grouped.topk(min(2, size), dim=-1).values.sum(dim=-1)
    kept = group_scores.topk(router.topk_groups, dim=-1).indices
    drop = torch.ones_like(group_scores, dtype=torch.bool).scatter_(1, kept, False)
    return grouped.masked_fill(drop[..., None], float("-inf")).view(M, E)


def _finish(weights: Tensor, router: Router) -> Tensor:
    """Renormalise and scale weights [M, topk] as the rule says."""
    if router.renormalise and router.score != "softmax_topk":
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1e-20)  # sigmoid scores may all be 0 in fp32
    return weights * router.scaling if router.scaling != 1.0 else weights


@dataclass(frozen=True)
class Spec:
    """A synthetic routing.

    Attributes:
        kind: ``uniform``, ``zipf``, ``balanced``, ``hot`` or ``replay``.
        s: exponent of ``zipf``: the popularity of the r-th expert is r ** -s.
        path: file of ``replay``.
    """

    kind: str
    s: float = 0.0
    path: Path | None = None


def parse_spec(text: str) -> Spec:
    """Return the routing that a command line asks for; UserError if it is not one of ``SPECS``."""
    kind, _, value = text.partition(":")
    if kind in ("uniform", "balanced", "hot") and not value:
        return Spec(kind)
    if kind == "replay" and value:
        return Spec(kind, path=Path(value))
    if kind == "zipf":
        try:
            s = float(value)
        except ValueError:
            s = -1.0
        if 0 <= s < float("inf"):  # false for NaN too, which float reads
            return Spec(kind, s=s)
    raise UserError(f"Routing '{text}' is unknown; write one of: {SPECS}.")


def synthetic(
    spec: Spec | str,
    M: int,
    E: int,
    topk: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    scaling: float = 1.0,
) -> Routing:
    """Return a routing with a chosen distribution of tokens over experts; ids are int32.

    Args:
        spec: ``uniform``: every expert is equally likely. ``zipf:S``: popularity r ** -S, ranks shuffled. ``balanced``:
            every expert gets floor or ceil of M*topk/E rows. ``hot``: one expert gets every token, the rest is uniform.
            ``replay:FILE``: the first M rows of a saved topk_ids.
        M: tokens.
        E: experts.
        topk: experts per token.
        seed: of ids and weights; the same seed gives the same routing on every device.
        device: device of the result.
        scaling: sum of the weights of a token.

    Raises:
        UserError: an unknown spec, or a replay file that does not fit.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    generator = torch.Generator().manual_seed(seed)  # on the CPU: GPUs draw other numbers from a seed
    if spec.kind == "replay":
        assert spec.path is not None
        ids = load_topk_ids(spec.path, M, E, topk)
    elif spec.kind == "balanced":
        order = torch.randperm(E, generator=generator)
        ids = order[(torch.arange(M * topk) % E).view(M, topk)]  # topk <= E in a row, so a token's experts differ
    else:
        ids = _sample(spec, M, E, topk, generator)
    weights = torch.randn(M, topk, generator=generator).softmax(dim=-1) * scaling
    return Routing(weights.to(device), ids.to(device=device, dtype=torch.int32).contiguous())


def _sample(spec: Spec, M: int, E: int, topk: int, generator: torch.Generator) -> Tensor:
    """Draw topk distinct experts per token: the Gumbel-top-k trick samples without replacement (arXiv 1903.06059)."""
    ranks = torch.randperm(E, generator=generator) + 1
    log_popularity = -spec.s * ranks.float().log()
    if spec.kind == "hot":
        log_popularity[ranks == 1] = float("inf")
    gumbel = -torch.empty(M, E).exponential_(generator=generator).log()
    return (log_popularity + gumbel).topk(topk, dim=-1).indices


def load_topk_ids(path: Path, M: int, E: int, topk: int) -> Tensor:
    """Read a saved topk_ids [tokens, topk] and return its first M rows.

    Raises:
        UserError: no such file, not an integer tensor of that shape, too few tokens, an id outside [0, E), or a token
            that has one expert twice.
    """
    ids = _read_tensor(path)
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise UserError(
            f"'{path.name}' must hold integer topk_ids of shape [tokens, topk]; it holds {ids.dtype} {list(ids.shape)}."
        )
    if ids.shape[1] != topk or ids.shape[0] < M:
        raise UserError(
            f"'{path.name}' holds {ids.shape[0]} tokens x topk {ids.shape[1]}; this run needs {M} x {topk}."
        )
    ids = ids[:M].long()
    if M and (int(ids.min()) < 0 or int(ids.max()) >= E):
        raise UserError(
            f"'{path.name}' has expert ids {int(ids.min())} to {int(ids.max())}; this model has experts 0 to {E - 1}."
        )
    ordered = ids.sort(dim=-1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise UserError(f"'{path.name}' has a token with one expert twice; save the ids of a real router.")
    return ids


def save_topk_ids(topk_ids: Tensor, path: Path) -> None:
    """Write topk_ids [M, topk] as int32 for ``replay``, to .npy or .pt.

    Raises:
        UserError: another suffix, or a folder that does not exist.
    """
    if path.suffix not in (".pt", ".npy"):
        raise UserError(f"Save topk_ids as .pt or .npy; got '{path.name}'.")
    ids = topk_ids.detach().to("cpu", torch.int32)
    temporary = path.with_name(f".{path.name}.partial")  # so that a killed command leaves no half of a file
    try:
        with temporary.open("wb") as file:
            if path.suffix == ".pt":
                torch.save(ids, file)
            else:
                import numpy as np

                np.save(file, ids.numpy())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write '{path.name}': {error.strerror}; choose a folder that exists and is writable."
        ) from error


def _read_tensor(path: Path) -> Tensor:
    if path.suffix not in (".pt", ".npy"):
        raise UserError(f"Replay reads topk_ids from .pt or .npy; got '{path.name}'.")
    try:
        if path.suffix == ".npy":
            import numpy as np

            return torch.from_numpy(np.load(path, allow_pickle=False))
        loaded = torch.load(path, map_location="cpu", weights_only=True)  # a pickle of others could run code
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{path}' with topk_ids; check the path after 'replay:'.") from error
    except Exception as error:
        raise UserError(
            f"Cannot read '{path.name}' as topk_ids ({type(error).__name__}); save it with --save-topk-ids."
        ) from error
    if not isinstance(loaded, Tensor):
        raise UserError(
            f"'{path.name}' holds a {type(loaded).__name__}, not one tensor of topk_ids; save it with --save-topk-ids."
        )
    return loaded
