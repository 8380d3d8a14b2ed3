"""Names of others in figures: plotly reads ``<b>``, ``&amp;`` and ``%{x}`` in a text as markup, so data is escaped."""

import html
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import pandas as pd

P = ParamSpec("P")
R = TypeVar("R")


def plain(text: str) -> str:
    """Return a text as plotly must get it to show it as it is, in labels, hovers and templates."""
    return html.escape(text, quote=False).replace("%{", "%&#123;")


def as_text(draw: Callable[P, R]) -> Callable[P, R]:
    """Make a function that draws get every text in its arguments, tables included, as ``plain`` returns it.

    So markup in a figure is only what the function itself adds.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        return draw(*map(_plain, args), **{key: _plain(value) for key, value in kwargs.items()})

    return drawn


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, pd.DataFrame):
        return _frame(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    return value


def _frame(frame: pd.DataFrame) -> pd.DataFrame:
    out = frame.copy()
    for position, dtype in enumerate(frame.dtypes):
        column = frame.iloc[:, position]
        if isinstance(dtype, pd.CategoricalDtype):
            out.isetitem(position, column.cat.rename_categories(_plain).array)
        elif pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype):
            out.isetitem(position, pd.Series([_plain(value) for value in column], dtype=dtype).array)
    if pd.api.types.is_object_dtype(frame.index.dtype) or isinstance(frame.index.dtype, pd.StringDtype):
        out.index = frame.index.map(_plain)
    out.attrs = _plain(frame.attrs)
    return out
