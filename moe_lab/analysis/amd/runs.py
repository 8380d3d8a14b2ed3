# SPDX-License-Identifier: Apache-2.0
"""Runs with AMD counters, as a notebook shows them."""

import re
from dataclasses import dataclass, replace

from moe_lab.analysis.captures import short_gpu
from moe_lab.runs import Run
from moe_lab.spec.errors import UserError
from moe_lab.spec.launches import Launches


@dataclass(frozen=True)
class Counted:
    """A run with counters of an AMD GPU.

    Attributes:
        name: as shown; unique on the page.
        run: where it comes from.
        launches: its launches and counters, perhaps only those of some kernels.
    """

    name: str
    run: Run
    launches: Launches

    @property
    def gpu(self) -> str:
        """The GPU's name without its vendor."""
        return short_gpu((self.launches.meta.get("gpu") or {}).get("name")) or "unknown GPU"


def only(launches: Launches, kernels: str) -> Launches:
    """Return the launches whose full kernel name matches a regular expression; raises UserError if it is not valid."""
    try:
        chosen = launches.table["name_full"].astype(str).str.contains(kernels, regex=True)
    except re.error as error:
        raise UserError(
            f"'{kernels}' is not a valid regular expression ({error}); give one that matches kernel names."
        ) from None
    return replace(launches, table=launches.table[chosen].reset_index(drop=True))
