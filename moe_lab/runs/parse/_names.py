"""Short kernel names from demangled ones, for reports that only have the long form."""

import re

DEPTH = 256  # of nested template arguments; compilers take about as many
_TEMPLATE = re.compile(r"<[^<>]*>")


def short_name(full: str) -> str:
    """Return a function's name without return type, namespaces, template arguments and parameters.

    ``void at::native::vectorized_elementwise_kernel<4, Add>(int, Add)`` is ``vectorized_elementwise_kernel``; names
    that are not C++ declarations, such as those of Triton kernels, stay as they are.
    """
    text = full.removesuffix(" [clone .kd]").replace("(anonymous namespace)::", "").replace("->", "")
    for _ in range(DEPTH):
        before, text = text, _TEMPLATE.sub("", text)
        if before == text:
            break
    name = text.split("(", 1)[0].strip().rsplit("::", 1)[-1].rsplit(" ", 1)[-1]
    return name or full
