"""The tiles that other projects ship for the same sizes and GPU, to be measured beside ours, in our kernel."""

from moe_lab.gpu.bench.tune.search import Pair
from moe_lab.spec import peers
from moe_lab.spec.configs import engines
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem


def pairs(problem: MoEProblem, gpu: str | None) -> dict[str, Pair]:
    """Return origin (``vllm 0.15.0``) -> tiles that it takes at the problem's M; of each release here that has a file.

    Args:
        problem: sizes and dtype.
        gpu: the GPU's own name; None = no GPU, so none.
    """
    found: dict[str, Pair] = {}
    here = [peer for name in engines.ENGINES if (peer := peers.installed(name))]
    for peer in [*here, *peers.cached()] if gpu else []:
        if peer.project not in engines.ENGINES:
            continue
        name, down = (
            engines.file_name(peer.project, problem.E, problem.N, str(gpu), problem.format, down=down)
            for down in (False, True)
        )
        files = sorted((p for p in peer.files("tiles") if p.name == name), key=lambda p: _release(p.parent.name))
        if not files:
            continue
        w13 = files[-1]
        w2 = w13.with_name(down) if w13.with_name(down).is_file() and peer.project == "sglang" else w13
        try:
            pair = tuple(engines.nearest(engines.tiles(path), problem.M) for path in (w13, w2))
        except UserError:
            continue
        if pair[0][0] == pair[1][0]:
            found[f"{peer.project} {peer.version}"] = pair[0], pair[1]
    return found


def _release(folder: str) -> list[int]:
    return [int(part) for part in folder.split("_") if part.isdecimal()]
