# SPDX-License-Identifier: Apache-2.0
"""Experts backends, one file each.

A backend is ``experts(x, w13, w2, topk_weights, topk_ids, *, problem, mark) -> y``, with

* x [M, K] in the dtype of a format in its INFO, contiguous; y [M, K] in the dtype of x;
* w13 [E, 2N, K], gate rows then up rows (without a gate [E, N, K]), and w2 [E, K, N], both contiguous, in that format,
  or whatever the backend makes of them in ``prepare(w13, w2)``, once for all calls;
* with ``biases`` in its INFO both may be ``Biased``: b13 [E, 2N] is added before the activation, b2 [E, K] before the
  router weight;
* topk_weights [M, topk] fp32 and topk_ids [M, topk] int32, contiguous;
* problem: sizes, activation, format, and where the router weight goes; mark: opens a range around each of its stages.

If its INFO says ``share``, it also takes ``share``, the share of the pairs whose expert is on this rank: the others
have the id -1 and are left out. With ``rows`` in its INFO x may be a ``Quantised`` [M, K]. One that computes rows by
expert has ``batched(received, w13, w2, *, problem, mark, dtype)`` instead; see ``experts/batched.py``.

It waits for the device only if its INFO says that no CUDA graph can capture it. If it pads, ``block_m(problem)`` is the
multiple to which it pads the rows of an expert. A backend of another project has ``at(version)`` instead, which returns
an object with these functions; None means the installed package, else the newest release in the cache.
"""

from collections.abc import Sequence
from typing import Any

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError


def load(name: str, without: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """Return a backend, which is a module or one release of a peer, and its INFO.

    Args:
        name: name of the plugin, or ``name@version`` for a release of a peer.
        without: as in ``plugins.load``.

    Raises:
        UserError: there is no such backend or release, or something that it needs is missing.
    """
    plugin, at, version = name.partition("@")
    info = plugins.info("experts", plugin)
    if at and "peer" not in info:
        raise UserError(f"'{plugin}' has no releases to choose from; leave '@{version}' out.")
    # The module of a peer has no kernels itself: they are in its releases.
    module = plugins.load("experts", plugin, without)
    return (module.at(version or None) if "peer" in info else module), info
