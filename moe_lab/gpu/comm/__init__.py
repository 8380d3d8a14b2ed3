"""Communication between ranks: each ``<name>.py`` is a plugin with ``INFO``, ``dispatch`` and ``combine``.

``dispatch(x, topk_ids, topk_weights, *, parallel, mark) -> Received`` sends every token to the ranks that hold its
experts; ``combine(rows, received, *, mark) -> y`` returns the experts' results and adds them up by token.
Besides ``about`` and ``needs``, ``INFO`` has ``layout`` (``standard``: rows [tokens, K]; ``batched``: [local experts,
max tokens, K] with counts), ``ranks`` (``one`` or ``any``) and ``stages`` (those that its calls mark).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Received:
    """What the experts of a rank work on.

    Attributes:
        x: rows [tokens, K] that this rank received.
        topk_ids: [tokens, topk], local numbers of their experts; -1 = on another rank.
        topk_weights: [tokens, topk] fp32.
        state: what ``combine`` of the same plugin needs.
    """

    x: "Tensor"
    topk_ids: "Tensor"
    topk_weights: "Tensor"
    state: Any = None  # such as where each row came from; only its own plugin reads it
