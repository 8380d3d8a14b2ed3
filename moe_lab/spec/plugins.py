"""Plugin folders: a file's name is the plugin's name; listing reads files, it never imports them."""

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_lab.spec import peers
from moe_lab.spec.errors import UserError

PACKAGE = Path(__file__).parents[1]
FOLDERS = {
    "align": "gpu/align",
    "experts": "gpu/experts",
    "formats": "gpu/formats",
    "comm": "gpu/comm",
    "capture": "runs/capture",
    "parse": "runs/parse",
}


def names(folder: str) -> list[str]:
    """Return the plugins of one of ``FOLDERS``, sorted by name."""
    return sorted(p.stem for p in (PACKAGE / FOLDERS[folder]).glob("*.py") if not p.stem.startswith("_"))


def info(folder: str, name: str) -> dict[str, Any]:
    """Return the plugin's module-level literal ``INFO``, read from its source without importing it.

    Every plugin has ``INFO = {"about": "...", ...}``. ``needs`` lists modules it imports, ``peer:NAME`` a project
    of ``moe_lab.spec.peers``; ``install`` says how to get them; other keys are the folder's.

    Raises:
        UserError: there is no such plugin.
    """
    if name not in names(folder):
        raise UserError(f"No {folder} plugin is called '{name}'; choose one of: {', '.join(names(folder))}.")
    path = PACKAGE / FOLDERS[folder] / f"{name}.py"
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "INFO" for t in targets):
            assert isinstance(node, ast.Assign)
            return dict(ast.literal_eval(node.value))
    raise UserError(f"moe_lab/{FOLDERS[folder]}/{name}.py has no INFO dictionary; give it one (see CONTRIBUTING.md).")


def unavailable(folder: str, name: str) -> str | None:
    """Return None when every module that the plugin needs can be found, else ``unavailable: needs X``."""
    known = info(folder, name)
    missing = [m.removeprefix("peer:") for m in known.get("needs", []) if not _found(m)]
    how = f" ({known['install']})" if "install" in known else ""
    return f"unavailable: needs {', '.join(missing)}{how}" if missing else None


def _found(module: str) -> bool:
    if module.startswith("peer:"):
        return peers.find(module.removeprefix("peer:")) is not None
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def load(folder: str, name: str) -> ModuleType:
    """Import the plugin.

    Raises:
        UserError: there is no such plugin, or a module that it needs is not installed.
    """
    reason = unavailable(folder, name)
    if reason:
        raise UserError(
            f"{folder} plugin '{name}' is {reason}; install that, or choose another of: {', '.join(names(folder))}."
        )
    return importlib.import_module(f"moe_lab.{FOLDERS[folder].replace('/', '.')}.{name}")
