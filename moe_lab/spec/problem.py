# SPDX-License-Identifier: Apache-2.0
"""The problem: sizes and format of a Mixture-of-Experts layer, and the least work that it takes."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from moe_lab.spec import formats, models
from moe_lab.spec.errors import UserError

DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
Part = Literal["full", "w13", "w2"]
ACTIVATIONS = (
    *("silu", "gelu", "gelu_tanh", "relu2", "swigluoai"),
    *("silu_no_mul", "gelu_no_mul", "relu2_no_mul"),
)


def has_gate(activation: str) -> bool:
    """Return whether an activation is act(gate) * up, so that w13 has a gate row for every up row."""
    return not activation.endswith("_no_mul")


def check_activation(activation: str) -> None:
    """Raise UserError unless the activation is one of ``ACTIVATIONS``."""
    if activation not in ACTIVATIONS:
        raise UserError(f"Activation '{activation}' is unknown; choose one of: {', '.join(ACTIVATIONS)}.")


def capacity(pairs: int, block_m: int, experts: int) -> int:
    """Return the most rows that pairs can take when the rows of each expert are padded to tiles of ``block_m``."""
    # At worst every expert that is hit has one row more than fills its tiles, and pads block_m - 1.
    return pairs + min(pairs, experts) * (block_m - 1)


@dataclass(frozen=True)
class MoEProblem:
    """One fused MoE layer call: x [M, K], w13 [E, 2N, K] (gate rows, then up rows), w2 [E, K, N] -> [M, K].

    Attributes:
        M: tokens before top-k expansion.
        K: hidden size.
        N: intermediate size of an expert.
        E: experts.
        topk: experts per token.
        format: of weights and activations, by its name in ``moe_lab.spec.formats``.
        activation: one of ``ACTIVATIONS``: act(gate) * up, or with ``_no_mul`` act alone, and then w13 is [E, N, K].
            ``relu2`` is the square of relu, ``swigluoai`` gpt-oss's clamped (up + 1) * gate * sigmoid(1.702 gate).
        model: name of the preset it came from, or None; with N shared experts NAME+N.
        apply_router_weight_on_input: whether the router weight multiplies the token before the experts instead of
            their result; only with one expert per token.
        biases: whether a bias is added to each product: b13 [E, 2N] and b2 [E, K], in the dtype.
        shared: shared experts, which every token passes through with weight 1: the last of the E, each one of the topk.

    Raises:
        UserError: an impossible size, an unknown format or activation, router weights on the input with several
            experts per token, or no routed experts beside the shared ones.
    """

    M: int
    K: int
    N: int
    E: int
    topk: int
    format: str = "bf16"
    activation: str = "silu"
    model: str | None = None
    apply_router_weight_on_input: bool = False
    biases: bool = False
    shared: int = 0

    def __post_init__(self) -> None:
        sizes = f"M={self.M} K={self.K} N={self.N} E={self.E} topk={self.topk}"
        if self.M < 0 or min(self.K, self.N, self.E, self.topk) < 1:
            raise UserError(f"MoE sizes must be positive (only M may be 0), not {sizes}.")
        if self.topk > self.E:
            raise UserError(f"topk={self.topk} experts per token cannot exceed E={self.E} experts; lower topk.")
        if not 0 <= self.shared < self.topk:
            raise UserError(f"{self.shared} shared experts leave no routed ones among topk={self.topk} of a token.")
        formats.get(self.format)
        check_activation(self.activation)
        if self.apply_router_weight_on_input and self.topk != 1:
            raise UserError(
                f"apply_router_weight_on_input needs topk=1, not {self.topk}: each expert of a token would need its "
                "own scaled copy; leave it out, or the shared experts."
            )

    @classmethod
    def preset(
        cls, name: str, M: int, format: str = "bf16", shared: int | str = 0, biases: str = "model"
    ) -> "MoEProblem":
        """Return the MoE layer of a model preset, or of sizes such as ``2048x768x128x8`` (KxNxExTOPK), for M tokens.

        ``shared`` experts are computed with the routed ones, as E + shared of which a token has topk + shared;
        ``model`` = as many as the model has. ``biases`` are ``yes``, ``no`` or as the ``model`` has them.
        """
        m = models.model(name)
        more = m.shared_experts if shared == "model" else int(shared)
        sizes = M, m.K, m.N, m.E + more, m.topk + more
        named, biased = f"{name}+{more}" if more else name, m.biases if biases == "model" else biases == "yes"
        return cls(*sizes, format, m.activation, named, m.apply_router_weight_on_input, biased, more)

    @property
    def routed(self) -> "MoEProblem":
        """The problem of the routed experts alone."""
        return replace(self, E=self.E - self.shared, topk=self.topk - self.shared, shared=0)

    @property
    def dtype(self) -> str:
        """Dtype of the tokens and of the result in any format: ``fp32``, ``fp16`` or ``bf16``."""
        return formats.get(self.format).dtype

    def facts(self) -> dict[str, Any]:
        """Return every field by name, and the dtype: what a run records of the problem."""
        return asdict(self) | {"dtype": self.dtype}

    @property
    def rows13(self) -> int:
        """Rows of an expert's w13: 2N, or N without a gate."""
        return (2 if has_gate(self.activation) else 1) * self.N

    @property
    def rows_useful(self) -> int:
        """Token-expert pairs: M * topk."""
        return self.M * self.topk

    def useful_flops(self, part: Part = "full") -> int:
        """Return the FLOPs that any implementation must do (a multiply-add is two): 6*M*topk*N*K with a gate."""
        return self._flops(self.rows_useful, part)

    def executed_flops(self, rows_padded: int, part: Part = "full") -> int:
        """Return the FLOPs done when each expert's rows are padded to tiles: 6*rows_padded*N*K with a gate.

        Args:
            rows_padded: num_tokens_post_padded of the align stage.
            part: both GEMMs, or one of them.
        """
        return self._flops(rows_padded, part)

    def minimum_bytes(self, experts_hit: int, part: Part = "full") -> int:
        """Return the least device-memory traffic in bytes: weights of experts hit, activations in and out, each once.

        Biases count as weights.

        Args:
            experts_hit: distinct experts that got at least one token.
            part: ``full`` reads x and writes the output [M, K], both in the dtype; ``w13`` reads x [M, K] and ``w2``
                reads [M*topk, N] as the format stores activations; they write [M*topk, rows13] and [M*topk, K] in the
                dtype.
        """
        known, rows = formats.get(self.format), self.rows_useful
        w13, w2 = known.weight_bytes(self.rows13, self.K), known.weight_bytes(self.K, self.N)
        if self.biases:
            w13 += self.rows13 * DTYPE_BYTES[self.dtype]
            w2 += self.K * DTYPE_BYTES[self.dtype]
        weights = experts_hit * {"full": w13 + w2, "w13": w13, "w2": w2}[part]
        read = {"w13": known.activation_bytes(self.M, self.K), "w2": known.activation_bytes(rows, self.N)}
        # x and y of the whole layer are counted together here: both are of the dtype.
        written = {"full": 2 * self.M * self.K, "w13": rows * self.rows13, "w2": rows * self.K}[part]
        return weights + read.get(part, 0) + written * DTYPE_BYTES[self.dtype]

    def _flops(self, rows: int, part: Part) -> int:
        columns = {"full": self.rows13 + self.N, "w13": self.rows13, "w2": self.N}[part]
        return 2 * rows * columns * self.K
