# SPDX-License-Identifier: Apache-2.0
"""Ranges around every module of a model, named as SGLang's and vLLM's own layer-wise markers are.

Both engines print a dictionary: ``{'Module': 'model.model.layers.0.mlp.gate', 'TrainableParams': {'weight':
[128, 2048]}, 'Inputs': [[16, 2048]], 'StaticParams': {'in_features': 2048, 'out_features': 128}}``. They differ in what
precedes a module's path (SGLang writes ``model``, vLLM the class of the model), and vLLM adds the sizes of arguments
given by name, and after each call an empty range with the sizes of its ``Outputs``. Checked in November 2026 against
``nvtx_pytorch_hooks.py`` of both and against where they register it: vLLM's ``v1/worker/gpu_model_runner.py``, SGLang's
``srt/model_executor/model_runner.py``. ``moe_lab.spec.ranges.display_name`` reads either.
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
    vllm = form == "vllm"
    opened: list[AbstractContextManager[Any]] = []

    def enter(name: str, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        opened.append(mark(message(name, module, {"Inputs": given, **(named if vllm else {})})))
        opened[-1].__enter__()

    def leave(name: str, module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        opened.pop().__exit__(None, None, None)
        if vllm:
            with mark(message(name, module, {"Outputs": result})):
                pass

    hooks = []
    for name, module in model.named_modules(prefix=type(model).__name__ if vllm else "model"):
        if not isinstance(module, nn.Identity | nn.Dropout):
            hooks.append(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True))
            hooks.append(module.register_forward_hook(partial(leave, name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def message(name: str, module: nn.Module, values: dict[str, Any]) -> str:
    """Return the name of a range: path, sizes of the module's own parameters, of tensors in ``values``, of layers."""
    said: dict[str, Any] = {"Module": name}
    if own := {key: list(value.shape) for key, value in module.named_parameters(recurse=False)}:
        said["TrainableParams"] = own
    said |= {key: shapes for key, value in values.items() if (shapes := _shapes(value))}
    static = ("in_features", "out_features") if isinstance(module, nn.Linear) else ()
    static = ("num_embeddings", "embedding_dim") if isinstance(module, nn.Embedding) else static
    if static:
        said["StaticParams"] = {key: getattr(module, key) for key in static}
    return str(said)


def _shapes(value: Any) -> list[list[int]]:
    """Return the sizes of a tensor, or of all tensors in a list or tuple."""
    if isinstance(value, Tensor):
        return [list(value.shape)]
    return [shape for part in value for shape in _shapes(part)] if isinstance(value, list | tuple) else []
