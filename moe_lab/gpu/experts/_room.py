# SPDX-License-Identifier: Apache-2.0
"""Room for the rows of every expert, where backends of other projects want them by expert."""

from moe_lab.spec.errors import UserError

MOST_TOKENS = 1024  # every expert gets room for them


def check_room(name: str, M: int) -> None:
    """Raise UserError if a backend is given more tokens than experts get room for."""
    if M > MOST_TOKENS:
        raise UserError(f"{name} gives every expert room for all tokens and takes up to {MOST_TOKENS}, not {M}.")
