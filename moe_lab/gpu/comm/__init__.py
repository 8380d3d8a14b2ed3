"""Ways between ranks: ``<name>.py`` is one, with ``INFO``, ``dispatch`` and ``combine``.

``dispatch(x, topk_ids, topk_weights, *, parallel, mark) -> Received`` brings every token to the ranks that hold its
experts; ``combine(rows, received, *, mark) -> y`` brings what the experts made of them back and adds it up by token.
``INFO`` says besides ``about`` and ``needs``: ``layout`` (``standard``: rows [tokens, K]; ``batched``: [local experts,
max tokens, K] with counts), ``ranks`` (``one`` or ``any``) and ``stages`` (that its calls mark).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Received:
    """What the experts of a rank work on.

    Attributes:
        x: rows [tokens, K] that came here.
        topk_ids: [tokens, topk], local numbers of their experts; -1 = of another rank.
        topk_weights: [tokens, topk] fp32.
        state: what ``combine`` of the same plugin needs.
    """

    x: "Tensor"
    topk_ids: "Tensor"
    topk_weights: "Tensor"
    state: Any = None
