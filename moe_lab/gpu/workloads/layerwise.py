"""Ranges around every module of a model, named as SGLang's and vLLM's own layer-wise markers are.

Both engines print a dictionary: ``{'Module': 'model.model.layers.0.mlp.gate', 'TrainableParams': {'weight':
[128, 2048]}, 'Inputs': [[16, 2048]]}``. They differ in what precedes a module's path: SGLang writes ``model``, vLLM the
class of the model. ``moe_lab.spec.ranges.display_name`` reads either.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from moe_lab.spec.ranges import Mark

FORMS = ("sglang", "vllm")


@contextmanager
def marked(model: nn.Module, form: str, mark: Mark) -> Iterator[None]:
    """Open a range around each call of each module while the context lasts.

    Args:
        model: the model; dropout and identities get no range, as in the engines.
        form: one of ``FORMS``.
        mark: opens a range.
    """
    prefix = "model" if form == "sglang" else type(model).__name__
    opened: list[AbstractContextManager[Any]] = []

    def enter(name: str, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        opened.append(mark(message(name, module, [*given, *named.values()])))
        opened[-1].__enter__()

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    hooks = []
    for name, module in model.named_modules(prefix=prefix):
        if not isinstance(module, nn.Identity | nn.Dropout):
            hooks.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def message(name: str, module: nn.Module, inputs: list[Any]) -> str:
    """Return the name of a range: path, sizes of the module's own parameters, and sizes of its input tensors."""
    said: dict[str, Any] = {"Module": name}
    if own := {key: list(value.shape) for key, value in module.named_parameters(recurse=False)}:
        said["TrainableParams"] = own
    if shapes := [list(value.shape) for value in inputs if isinstance(value, Tensor)]:
        said["Inputs"] = shapes
    return str(said)
