# SPDX-License-Identifier: Apache-2.0
"""A run picker for JupyterLab: a drop-down list of what profiles/ holds, or a table without ipywidgets."""

import importlib
from typing import Any

import pandas as pd

from moe_lab import runs
from moe_lab.pages.api import Loaded, load
from moe_lab.pages.show.tables import Column, Table
from moe_lab.spec.errors import UserError


class Picker:
    """Runs to choose from, displayed as the last line of a cell.

    Attributes:
        table: columns name and holds, one row per run.
        name: the chosen run; the first until another is chosen.
        widget: the drop-down list, None without ipywidgets.
    """

    def __init__(self, table: pd.DataFrame):
        self.table, self.name = table, str(table["name"].iloc[0])
        self.widget = self._list()

    def load(self) -> Loaded:
        """Return the chosen run."""
        return load(self.name)

    def _list(self) -> Any:
        try:
            widgets = importlib.import_module("ipywidgets")
        except ImportError:
            return None
        said = zip(self.table["name"], self.table["holds"], strict=True)
        options = [(f"{name}: {holds}" if holds else name, name) for name, holds in said]
        found = widgets.Dropdown(options=options, description="run", layout={"width": "max-content"})
        found.observe(self._chosen, names="value")
        return found

    def _chosen(self, change: Any) -> None:
        self.name = str(change["new"])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        columns = [Column("name", "run"), Column("holds", "holds", wrap=True)]
        return (self.widget or Table(self.table, columns))._repr_mimebundle_()


def pick(word: str = "") -> Picker:
    """Return a picker of the runs in profiles/.

    Args:
        word: only runs whose name or contents hold this word; empty for all.

    Raises:
        UserError: there is no such run.
    """
    rows = [{"name": str(run.manifest["name"]), "holds": run.what} for run in runs.list_runs()]
    found = [row for row in rows if word in row["name"] or word in row["holds"]]
    if not found:
        raise UserError(f"No run in profiles/ has '{word}' in its name or contents; `moe-lab runs` lists them.")
    return Picker(pd.DataFrame(found))
