# SPDX-License-Identifier: Apache-2.0
"""Communication between ranks: each ``<name>.py`` is a plugin with ``INFO``, ``dispatch`` and ``combine``.

``dispatch(x, topk_ids, topk_weights, *, parallel, mark) -> Received`` sends every token to the ranks that hold its
experts, once to each; ``combine(rows, received, *, mark) -> y`` returns what each rank's experts make of a token,
already multiplied by the router's weights and summed over that rank's experts, and adds the ranks up by token.
A plugin with the layout ``batched`` gets those rows unweighed in their places, [local experts * room, K], instead.
Besides ``about`` and ``needs``, ``INFO`` has ``layout`` (``standard``: rows [tokens, K]; ``batched``: [local experts,
max tokens, K] with counts), ``ranks`` (``one`` or ``any``) and ``stages`` (those that its calls mark).

A plugin that does the experts too says ``"whole": True``. Instead of both it has ``weights(w13, w2) -> weights`` of
this rank's experts, which is called once, and ``layer(x, weights, topk_weights, topk_ids, *, parallel, mark) -> y``.

A plugin with ``prepare(parallel, sizes) -> room`` makes its buffers there, once, in a call of all ranks; its
``dispatch`` or ``layer`` then takes ``room`` too, and an optional ``check(room)`` raises a UserError that names a rank
which did not come.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel
from moe_lab.spec.problem import MoEProblem
from moe_lab.spec.ranges import Mark

if TYPE_CHECKING:
    from torch import Tensor, device

    from moe_lab.gpu.formats import AnyWeights, Quantised


@dataclass(frozen=True)
class Received:
    """What the experts of a rank work on.

    Attributes:
        x: rows [tokens, K] that this rank received, quantised if they travelled so; rows that no expert here works on
            may hold anything. With ``counts`` [local experts * room, K], those of expert e from e * room on.
        topk_ids: [tokens, topk], local numbers of their experts; -1 = on another rank. In the batched layout, as
            ``combine`` of the plugin sums, only its size says something.
        topk_weights: [tokens, topk] fp32; None = ``combine`` of the plugin applies them and sums.
        state: what ``combine`` of the same plugin needs.
        counts: [local experts] int32, rows of each expert in the batched layout; None = the standard one.
        place: [tokens * topk] int32, the row of each pair in the batched layout, negative = it has none here. In any
            order where ``combine`` sums.
    """

    x: Union["Tensor", "Quantised"]
    topk_ids: "Tensor"
    topk_weights: "Tensor | None"
    state: Any = None  # such as where each row came from; only its own plugin reads it
    counts: "Tensor | None" = None
    place: "Tensor | None" = None


@dataclass(frozen=True)
class Sizes:
    """What the buffers of a room must hold.

    Attributes:
        tokens: the most tokens of a rank in a call.
        K: hidden size.
        topk: experts per token.
        format: of the experts; rows travel as its activations are multiplied, in e4m3 with scales in ``fp8_block``.
        device: of the tokens.
        problem: of one rank's tokens; only a plugin that does the experts too reads it.
        overlap: whether other kernels run beside the calls; a plugin may leave them a part of the GPU.
    """

    tokens: int
    K: int
    topk: int
    format: str
    device: "device"
    problem: MoEProblem | None = None
    overlap: bool = False


class Between:
    """A way between ranks with its buffers, for calls of up to ``sizes.tokens`` tokens on each rank."""

    def __init__(self, name: str, parallel: Parallel, sizes: Sizes):
        """Make the buffers: all ranks do so together.

        Raises:
            UserError: there is no such plugin, something that it needs is missing, or it cannot do these sizes.
        """
        info = plugins.info("comm", name)
        if sizes.device.type not in info.get("devices", ("cuda", "cpu")):
            raise UserError(f"The comm plugin '{name}' does not run on {sizes.device.type}; choose another one.")
        self.name, self.parallel, self.sizes, self._plugin = name, parallel, sizes, plugins.load("comm", name)
        if sizes.format not in info.get("formats", [sizes.format]):
            raise UserError(f"{name} does not send {sizes.format}, only: {', '.join(info['formats'])}.")
        self.whole = bool(info.get("whole"))
        prepare = getattr(self._plugin, "prepare", None)
        self._room = {"room": prepare(parallel, sizes)} if prepare else {}

    def dispatch(self, x: "Tensor", topk_ids: "Tensor", topk_weights: "Tensor", mark: Mark) -> Received:
        """Send tokens x [M, K] to the ranks of their experts; see the plugin's ``dispatch``.

        Raises:
            UserError: this rank has more tokens than the buffers hold. Nothing was sent then.
        """
        self._check_fits(x)
        sent: Received = self._plugin.dispatch(
            x, topk_ids, topk_weights, parallel=self.parallel, mark=mark, **self._room
        )
        return sent

    def combine(self, rows: "Tensor", received: Received, mark: Mark) -> "Tensor":
        """Return y [M, K] of this rank's tokens from rows [tokens, K], the sums of this rank's experts."""
        y: Tensor = self._plugin.combine(rows, received, mark=mark)
        return y

    def weights(self, w13: "AnyWeights", w2: "AnyWeights") -> Any:
        """Return this rank's weights as ``layer`` takes them."""
        return self._plugin.weights(w13, w2)

    def layer(self, x: "Tensor", weights: Any, topk_weights: "Tensor", topk_ids: "Tensor", mark: Mark) -> "Tensor":
        """Return y [M, K] of this rank's tokens x [M, K], from a plugin that does the experts too.

        Raises:
            UserError: this rank has more tokens than the buffers hold. Nothing was sent then.
        """
        self._check_fits(x)
        given = (x, weights, topk_weights, topk_ids)
        y: Tensor = self._plugin.layer(*given, parallel=self.parallel, mark=mark, **self._room)
        return y

    def _check_fits(self, x: "Tensor") -> None:
        if len(x) > self.sizes.tokens:
            raise UserError(
                f"Rank {self.parallel.rank} has {len(x)} tokens, but the buffers of '{self.name}' hold "
                f"{self.sizes.tokens} of each rank; make them for more. Nothing was sent."
            )

    def check(self) -> None:
        """Wait for the calls so far; UserError if another rank did not come in time."""
        check = getattr(self._plugin, "check", None)
        if check:
            check(**self._room)
