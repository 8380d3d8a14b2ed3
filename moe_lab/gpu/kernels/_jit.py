"""``jit``: ``triton.jit``, whose functions type checkers pass over, since they do not know Triton's language.

So device functions need no types, and what launches them is checked like any other code.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import no_type_check as jit
else:
    from triton import jit

__all__ = ["jit"]
