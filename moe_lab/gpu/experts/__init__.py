"""Experts backends, one file each.

A backend is ``experts(x, w13, w2, topk_weights, topk_ids, *, problem, mark) -> y``, with

* x [M, K] in the dtype of a format of its INFO, contiguous; y [M, K] in the dtype of x;
* w13 [E, 2N, K], gate rows then up rows, and w2 [E, K, N], both contiguous, in that format: ``prepare(w13, w2)`` may
  make of them, once for all calls, whatever the backend wants instead;
* topk_weights [M, topk] fp32 and topk_ids [M, topk] int32, contiguous;
* problem: sizes, activation, format, and where the router weight goes; mark: opens a range around each stage there is.

It waits for the device only where its INFO says that it takes no CUDA graph, and says ``block_m(problem)``, the rows to
which an expert's are padded, if it pads. A backend of another project gives ``at(version)`` instead, an object with
these functions; None is the installed package, else the newest release in the cache.
"""

from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError


def load(name: str) -> tuple[Any, dict[str, Any]]:
    """Return a backend, which is a module or one release of a peer, and its INFO.

    Args:
        name: of the plugin, or ``name@version`` of a peer's release.

    Raises:
        UserError: there is no such backend or release, or what it needs is missing.
    """
    plugin, at, version = name.partition("@")
    info = plugins.info("experts", plugin)
    if at and "peer" not in info:
        raise UserError(f"'{plugin}' has no releases to choose from; leave '@{version}' out.")
    module = plugins.load("experts", plugin)
    return (module.at(version or None) if "peer" in info else module), info
