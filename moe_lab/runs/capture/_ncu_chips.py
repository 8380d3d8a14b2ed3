"""Whether an installed Nsight Compute is new enough for the GPU."""

import re

from moe_lab.runs.capture._facts import compute_capability
from moe_lab.runs.capture._tools import Tool, output

# Compute capability -> how the names of its chips begin in `ncu --list-chips`.
CHIPS = {
    **{"7.0": "gv100", "7.5": "tu1", "8.0": "ga100", "8.6": "ga10", "8.9": "ad10", "9.0": "gh100"},
    **{"10.0": "gb100", "12.0": "gb20"},
}
_CHIP = re.compile(r"\b[a-z]{2}\d[0-9a-z]{1,3}\b")


def knows_gpu(tool: Tool) -> bool | None:
    """Return whether ncu lists the chip of this machine's first GPU; None where ncu or the driver does not say."""
    chip = CHIPS.get(compute_capability() or "")
    chips = _CHIP.findall((output([str(tool.path), "--list-chips"]) or "").lower())
    return any(known.startswith(chip) for known in chips) if chip and chips else None
