# SPDX-License-Identifier: Apache-2.0
"""The standard pipeline around another project's Triton grouped GEMM, with that project's tuned tiles.

The comparison is about their GEMM kernel, its launcher and its tiles. Align, quantisation, activation and sum are ours:
theirs are compiled extensions that are not among a wheel's Python files, and ours are faster (hidden rows are quantised
in the activation's launch), so the comparison favours the peer.
"""

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_lab.gpu.experts._launcher import call, flags, grouped, paired_zeros
from moe_lab.gpu.experts._place_weight import place_weight
from moe_lab.gpu.experts._platform import rocm
from moe_lab.gpu.experts._standins import load_file
from moe_lab.gpu.experts._tuned import align_of
from moe_lab.gpu.formats import AnyWeights, Biased, Quantised, Weights, apart
from moe_lab.gpu.kernels.activation import gated_activation
from moe_lab.gpu.kernels.combine import combine
from moe_lab.gpu.kernels.quantise import parts, quantise
from moe_lab.gpu.kernels.scales import check_product
from moe_lab.spec import formats, peers
from moe_lab.spec.configs import engines
from moe_lab.spec.errors import UserError
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}

BIAS = "bias", "B_bias"  # names of a launcher's argument

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
        token_scales: [rows, 1] fp32, of the activations of the launch in progress; None = they have none.
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
        self.token_scales: Tensor | None = None
        self._answers = answers
        self._plans: dict[MoEProblem, Plan] = {}  # reading a tuned file takes longer than a launch

    @cached_property
    def _kernel(self) -> ModuleType:
        module = load_file(self.peer.file("kernel"), self.peer.project, self._answers)
        # Of few rows in int4 vLLM's rule chooses a compiled kernel, which is not among its Python files.
        module.__dict__["should_moe_wna16_use_cuda"] = lambda *given, **named: False
        return module

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
        known = formats.get(problem.format)
        said = {"dtype": known.engine if known.quantised else None, "is_marlin": False, **flags(problem.format)}
        config = call(self._defaults.get_default_config, {**given, **said})
        return self._checked(config, "its default tiles", problem)

    def _files(self, problem: MoEProblem, twin: str, gpu: str) -> list[Path]:
        """Return the tuned files for a GPU."""
        # vLLM has no name for tiles of int8 activations: it takes those of bf16.
        format = "bf16" if (self.peer.project, problem.format) == ("vllm", "int8") else problem.format
        name = engines.file_name(self.peer.project, problem.E, problem.N, gpu, format, down=bool(twin))
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
        return self._checked(engines.theirs(path, problem.M), path.name, problem)

    def _checked(self, config: dict[str, int], where: str, problem: MoEProblem) -> tuple[dict[str, int], bool]:
        """Return a tile as the launcher takes it, and whether it loads by TMA.

        Raises:
            UserError: a key that neither the kernel nor Triton's launcher has, or a split of K: nothing is dropped.
        """
        known = {*self._kernel.fused_moe_kernel.arg_names, *LAUNCH, *(LAUNCH_AMD if rocm() else ())}
        rest = {key: value for key, value in config.items() if key not in ("SPLIT_K", "USE_TMA")}
        unknown = [key for key in rest if key not in known]
        tma = bool(config.get("USE_TMA"))
        if config.get("SPLIT_K", 1) != 1:  # the launchers set 1 themselves
            unknown.append("SPLIT_K")
        if tma and "b_use_tma" not in inspect.signature(self._launcher()).parameters:
            unknown.append("USE_TMA")
        if unknown:
            raise UserError(
                f"{where} of {self.peer.project} {self.peer.version} has {', '.join(unknown)}, which this adapter "
                "cannot pass to its kernel; use another release."
            )
        # But the one for int4 hands its kernel what the tile says.
        split = grouped(problem.format) and "SPLIT_K" in self._kernel.fused_moe_kernel_gptq_awq.arg_names
        return {**rest, **({"SPLIT_K": 1} if split else {})}, tma

    def _launcher(self, int4: bool = False) -> Any:
        # Releases renamed their launcher, and vLLM has one of its own for int4.
        names = "invoke_fused_moe_wna16_triton_kernel", "invoke_fused_moe_triton_kernel", "invoke_fused_moe_kernel"
        return next(getattr(self._kernel, name) for name in names[not int4 :] if hasattr(self._kernel, name))

    def prepare(self, w13: AnyWeights, w2: AnyWeights) -> tuple[AnyWeights, AnyWeights]:
        """Return the weights as they are, but for zero points, which the kernels read two rows a byte."""
        return paired_zeros(w13), paired_zeros(w2)

    def block_m(self, problem: MoEProblem) -> int:
        """Return the rows of a tile."""
        return int(self.config(problem)["BLOCK_SIZE_M"])

    def experts(
        self,
        x: Tensor,
        w13: AnyWeights,
        w2: AnyWeights,
        topk_weights: Tensor,
        topk_ids: Tensor,
        *,
        problem: MoEProblem,
        mark: Mark,
    ) -> Tensor:
        """Return the layer's output [M, K] in the dtype of x. No host synchronisation.

        Raises:
            UserError: there are biases, and the release has no argument for them.
        """
        if problem.M == 0:
            return torch.empty_like(x)
        plan, on_input = self._plan(problem), problem.apply_router_weight_on_input
        if isinstance(w13, Biased):
            # Its w13 would multiply the bias by the router weight too.
            (x, topk_weights), on_input = place_weight(x, topk_weights, problem, mark), False
        tokens: Weights = x
        if quantised := bool(formats.get(problem.format).activation_block):
            check_product(problem.format, x.device)
            with mark("quant"):
                tokens = quantise(x, format=problem.format)
        with mark("align"):
            tiles = self._align(topk_ids, plan, problem)
        given = {"topk_weights": topk_weights, "topk_ids": topk_ids, **tiles, **flags(problem.format)}
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

    def _align(self, topk_ids: Tensor, plan: Plan, problem: MoEProblem) -> dict[str, Tensor | None]:
        """Return the arguments that say which rows a tile has; with few pairs each gets a tile, if the kernel can."""
        block_m = plan.w13["BLOCK_SIZE_M"]
        naive = "naive_block_assignment" in self._kernel.fused_moe_kernel.arg_names and not grouped(problem.format)
        # vLLM's own rule for its own argument: up to E / 4 pairs need no sort.
        if naive and 4 * topk_ids.numel() <= problem.E:
            total = torch.full((1,), topk_ids.numel() * block_m, dtype=torch.int32, device=topk_ids.device)
            return {"sorted_token_ids": None, "expert_ids": topk_ids.view(-1), "num_tokens_post_padded": total}
        return align_of("auto")(topk_ids, block_m, problem.E)._asdict()

    def _gemm(self, x: Weights, w: AnyWeights, y: Tensor, weighted: bool, topk: int, given: dict[str, Any]) -> None:
        """Launch y = x @ w^T, with the bias if there is one, for the rows of each tile, times the router weight."""
        # Releases differ in their arguments: all that any of them knows is offered, see ``call``.
        weights, bias = apart(w)
        launcher, fixed = self._launcher(given["use_int4_w4a16"]), dict.fromkeys(BIAS, bias)
        if bias is not None and not inspect.signature(launcher).parameters.keys() & set(BIAS):
            raise UserError(f"{self.peer.project} {self.peer.version} adds no biases; use another release.")
        (a, a_scale), (b, b_scale) = parts(x), parts(weights)
        zeros = weights.zeros if isinstance(weights, Quantised) else None
        values = {"A": a, "B": b, "C": y, "A_scale": a_scale, "B_scale": b_scale, "B_zp": zeros, "top_k": topk}
        types = {"mul_routed_weight": weighted, "compute_type": TYPES[y.dtype], "filter_expert": False}
        self.token_scales = a_scale
        call(launcher, {**fixed, **values, **types, **given})
