# SPDX-License-Identifier: Apache-2.0
"""What both modes of DeepEP V1 need: its library, and an end of its buffers that all ranks come to."""

import atexit
from typing import Any

from moe_lab.spec.errors import UserError


def library() -> Any:
    """Return DeepEP's ``Buffer``.

    Raises:
        UserError: the library does not load.
    """
    try:
        from deep_ep import Buffer
    except ImportError as error:  # its own libraries are found when it is imported, not before
        raise UserError(
            f"DeepEP cannot be loaded ({error}); is libnvshmem_host.so.3 on LD_LIBRARY_PATH, and is this the torch "
            "that it was built with?"
        ) from error
    return Buffer


def kept(buffer: Any) -> Any:
    """Return a buffer made with ``explicitly_destroy``, which ends with the process.

    All ranks destroy it together, which the end of a process does and garbage collection does not.
    """
    atexit.register(buffer.destroy)
    return buffer
