"""The standard pipeline around another project's Triton grouped GEMM, with that project's tuned tiles.

The comparison is about their GEMM kernel, its launcher and its tiles. Align, quantisation, activation and sum are ours:
theirs are compiled extensions that are not among a wheel's Python files, and ours are faster (hidden rows are quantised
in the activation's launch), so the comparison favours the peer.
"""

import inspect
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.experts._platform import rocm
from moe_lab.gpu.experts._standins import load_file
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.formats import Quantised, Weights
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.quantise import check_product, parts, quantise
from moe_lab.spec import formats, peers
from moe_lab.spec.configs import engines
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

# Options of Triton's launcher that a tuned file may name.
LAUNCH, LAUNCH_AMD = ("num_warps", "num_stages", "num_ctas"), ("waves_per_eu", "matrix_instr_nonkdim", "kpack")


@dataclass(frozen=True)
class Plan:
    """The tiles of a call.

    Attributes:
        w13: keyword arguments of the kernel.
        w2: the same.
        tma13: whether w13's weights are loaded by TMA.
        tma2: whether w2 and the hidden rows, which are then in sorted order, are loaded by TMA.
    """

    w13: dict[str, int]
    w2: dict[str, int]
    tma13: bool
    tma2: bool


class WheelPipeline:
    """An experts backend made of one release of a project.

    Attributes:
        peer: the release.
    """

    def __init__(self, project: str, version: str | None, answers: dict[str, Any]):
        """Find the release; nothing is imported yet.

        Args:
            project: key of ``peers.PROJECTS``.
            version: of the release; None = the installed package, else the newest in the cache.
            answers: name -> true value of a name that the kernel file imports from its project and really uses.

        Raises:
            UserError: it is neither installed nor in the cache.
        """
        self.peer = peers.get(project, version)
        self._answers = answers
        self._plans: dict[MoEProblem, Plan] = {}  # reading a tuned file takes longer than a launch

    @cached_property
    def _kernel(self) -> ModuleType:
        return load_file(self.peer.file("kernel"), self.peer.project, self._answers)

    @cached_property
    def _defaults(self) -> ModuleType:
        part = "defaults" if "defaults" in peers.PROJECTS[self.peer.project].parts else "kernel"
        return self._kernel if part == "kernel" else load_file(self.peer.file(part), self.peer.project, self._answers)

    def config(self, problem: MoEProblem) -> dict[str, int]:
        """Return the project's tile for w13: that of the nearest M in its tuned file, else its default."""
        return dict(self._plan(problem).w13)

    def _plan(self, problem: MoEProblem) -> Plan:
        if problem not in self._plans:
            first, tma13 = self._look_up(problem, "") or self._default(problem)
            second, tma2 = self._look_up(problem, "_down") or (first, False)
            # Both share the pairs that align sorted, so w2 takes block_m of w13's tile.
            self._plans[problem] = Plan(first, {**second, "BLOCK_SIZE_M": first["BLOCK_SIZE_M"]}, tma13, tma2)
        return self._plans[problem]

    def _default(self, problem: MoEProblem) -> tuple[dict[str, int], bool]:
        given = {"M": problem.M, "E": problem.E, "N": problem.N, "K": problem.K, "topk": problem.topk}
        scaled = _scaled(problem.format)
        said = {"dtype": "fp8_w8a8" if scaled["use_fp8_w8a8"] else None, "is_marlin": False, **scaled}
        config = _call(self._defaults.get_default_config, {**given, **said})
        return self._checked(config, "its default tiles")

    def _files(self, problem: MoEProblem, twin: str, gpu: str) -> list[Path]:
        """Return the tuned files for a GPU."""
        name = engines.file_name(self.peer.project, problem.E, problem.N, gpu, problem.format, down=bool(twin))
        return [path for path in self.peer.files("tiles") if path.name == name]

    def _look_up(self, problem: MoEProblem, twin: str) -> tuple[dict[str, int], bool] | None:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        if formats.get(problem.format).quantised and "H100" in gpu and not self._files(problem, "", gpu):
            gpu = "NVIDIA H200"  # it has the same multiprocessors, so its tiles suit better than the defaults
        files = self._files(problem, twin, gpu)
        if not files:
            return None
        # The folder of this very Triton, else of the newest: tiles depend on the compiler.
        own = f"triton_{triton.__version__.replace('.', '_')}"
        path = max(files, key=lambda p: (p.parent.name == own, engines.triton_release(p)))
        return self._checked(engines.theirs(path, problem.M), path.name)

    def _checked(self, config: dict[str, int], where: str) -> tuple[dict[str, int], bool]:
        """Return a tile as the launcher takes it, and whether it loads by TMA.

        Raises:
            UserError: a key that neither the kernel nor Triton's launcher has, or a split of K: nothing is dropped.
        """
        known = {*self._kernel.fused_moe_kernel.arg_names, *LAUNCH, *(LAUNCH_AMD if rocm() else ())}
        rest = {key: value for key, value in config.items() if key not in ("SPLIT_K", "USE_TMA")}
        unknown = [key for key in rest if key not in known]
        tma = bool(config.get("USE_TMA"))
        if config.get("SPLIT_K", 1) != 1:  # every launcher sets 1 itself
            unknown.append("SPLIT_K")
        if tma and "b_use_tma" not in inspect.signature(self._launcher).parameters:
            unknown.append("USE_TMA")
        if unknown:
            raise UserError(
                f"{where} of {self.peer.project} {self.peer.version} has {', '.join(unknown)}, which this adapter "
                "cannot pass to its kernel; use another release."
            )
        return rest, tma

    @property
    def _launcher(self) -> Any:
        kernel = self._kernel  # vLLM renamed its launcher between releases
        return getattr(kernel, "invoke_fused_moe_triton_kernel", None) or kernel.invoke_fused_moe_kernel

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile."""
        return int(self.config(problem)["BLOCK_SIZE_M"])

    def experts(
        self,
        x: Tensor,
        w13: Weights,
        w2: Weights,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in the dtype of x. No host synchronisation."""
        if problem.M == 0:
            return torch.empty_like(x)
        plan, on_input = self._plan(problem), problem.apply_router_weight_on_input
        tokens: Weights = x
        if quantised := isinstance(w13, Quantised):
            check_product(problem.format, x.device)
            with mark("quant"):
                tokens = quantise(x, format=problem.format)
        with mark("align"):
            tiles = self._align(topk_ids, plan, problem.E)
        given = {"topk_weights": topk_weights, "topk_ids": topk_ids, **tiles}
        order = tiles["sorted_token_ids"] if plan.tma2 else None  # TMA cannot gather: it reads rows in sorted order
        with mark("w13"):
            shape = (problem.M, problem.topk) if order is None else (1, order.numel())
            gate_up = x.new_empty((*shape, problem.rows13))
            fast = {"b_use_tma": plan.tma13, "c_sorted": plan.tma2}
            self._gemm(tokens, w13, gate_up, on_input, problem.topk, {**given, "config": dict(plan.w13), **fast})
        with mark("act+quant" if quantised else "act"):
            rows13 = gate_up.view(-1, problem.rows13), problem.activation, order, problem.rows_useful
            padded = tiles["num_tokens_post_padded"] if order is not None else None
            hidden = quantise(*rows13, padded=padded, format=problem.format) if quantised else gated_activation(*rows13)
        with mark("w2"):
            rows = x.new_empty((problem.M, problem.topk, problem.K))
            fast = {"a_use_tma": plan.tma2, "b_use_tma": plan.tma2}
            self._gemm(hidden, w2, rows, not on_input, 1, {**given, "config": dict(plan.w2), **fast})
        with mark("combine"):
            return combine(rows.view(problem.rows_useful, problem.K), problem.topk)

    def _align(self, topk_ids: Tensor, plan: Plan, E: int) -> dict[str, Tensor | None]:
        """Return the arguments that say which rows a tile has; with few pairs each gets a tile, if the kernel can."""
        block_m = plan.w13["BLOCK_SIZE_M"]
        # vLLM's own rule for its own argument: up to E / 4 pairs need no sort.
        if 4 * topk_ids.numel() <= E and "naive_block_assignment" in self._kernel.fused_moe_kernel.arg_names:
            total = torch.full((1,), topk_ids.numel() * block_m, dtype=torch.int32, device=topk_ids.device)
            return {"sorted_token_ids": None, "expert_ids": topk_ids.view(-1), "num_tokens_post_padded": total}
        return align_of("auto")(topk_ids, block_m, E)._asdict()

    def _gemm(self, x: Weights, w: Weights, y: Tensor, weighted: bool, topk: int, given: dict[str, Any]) -> None:
        """Launch y = x @ w^T for the rows of each tile; ``weighted``: times the router weight."""
        # Releases differ in their arguments: all that any of them knows is offered, see ``_call``.
        fixed = dict.fromkeys(("B_zp", "bias", "B_bias"))
        off = ("use_int8_w8a8", "use_int8_w8a16", "use_int4_w4a16", "filter_expert")
        (a, a_scale), (b, b_scale) = parts(x), parts(w)
        values = {"A": a, "B": b, "C": y, "A_scale": a_scale, "B_scale": b_scale, "top_k": topk}
        types = {"mul_routed_weight": weighted, "compute_type": TYPES[y.dtype]}
        flags = {**dict.fromkeys(off, False), **_scaled(w.format if isinstance(w, Quantised) else "")}
        _call(self._launcher, {**fixed, **flags, **values, **types, **given})


@cache
def _scaled(format: str) -> dict[str, Any]:
    """Return a format as arguments of the engines' launchers; an empty name means no scales."""
    # Cached, because a look-up reads the plugin's source, and every call needs it.
    known = formats.get(format) if format else None
    return {
        "use_fp8_w8a8": bool(known and known.quantised),
        "block_shape": list(known.block_shape) if known and known.block_shape else None,
        "per_channel_quant": bool(known and known.per_channel),
    }


def _call(function: Any, known: dict[str, Any]) -> Any:
    """Call a function of another project with those of the known arguments that it takes.

    Raises:
        UserError: it needs one that is not known.
    """
    parameters = inspect.signature(function).parameters
    unknown = [n for n, p in parameters.items() if n not in known and p.default is inspect.Parameter.empty]
    if unknown:
        raise UserError(f"{function.__name__} needs {', '.join(unknown)}, which this adapter does not know.")
    return function(**{name: known[name] for name in parameters if name in known})
