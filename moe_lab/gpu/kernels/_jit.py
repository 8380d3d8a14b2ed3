# SPDX-License-Identifier: Apache-2.0
"""``jit``: ``triton.jit``, but type checkers skip the functions, since they do not know Triton's language.

So device functions need no types, while the code that launches them is checked like any other.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import no_type_check as jit
else:
    from triton import jit

__all__ = ["jit"]
