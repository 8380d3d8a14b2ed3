# SPDX-License-Identifier: Apache-2.0
"""moe_lab: profile fused Mixture-of-Experts layers and say where their time goes (names: docs/api.md)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> (module, its name there); loaded when first asked for, so that `import moe_lab` and the command line are light
_PUBLIC = {
    **{name: ("moe_lab.pages.api", name) for name in ("Loaded", "breakdown", "compare", "kernels", "load")},
    "pick": ("moe_lab.pages.picker", "pick"),
    "MoEProblem": ("moe_lab.spec.problem", "MoEProblem"),
    "UserError": ("moe_lab.spec.errors", "UserError"),
    "presets": ("moe_lab.spec.models", "MODELS"),
}
__all__ = ["Loaded", "MoEProblem", "UserError", "breakdown", "compare", "kernels", "load", "pick", "presets"]


def load_ipython_extension(ipython: Any) -> None:
    """Let data frames and figures of a notebook look as on the pages: what ``%load_ext moe_lab`` calls."""
    import_module("moe_lab.pages.show.lab").load(ipython)


if TYPE_CHECKING:
    from moe_lab.pages.api import Loaded, breakdown, compare, kernels, load
    from moe_lab.pages.picker import pick
    from moe_lab.spec.errors import UserError
    from moe_lab.spec.models import MODELS as presets  # noqa: N811
    from moe_lab.spec.problem import MoEProblem
else:

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'moe_lab' has no attribute '{name}'")
        module, there = _PUBLIC[name]
        return getattr(import_module(module), there)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_PUBLIC})
