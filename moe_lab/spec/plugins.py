# SPDX-License-Identifier: Apache-2.0
"""Plugins: each is one file, named after the plugin; listing them reads the files but never imports them.

The package's own lie in ``FOLDERS``. Others come from outside: an entry point of the group ``moe_lab.<kind>``, or a
file given by ``--plugin FILE.py``, which states its kind in ``INFO["kind"]``. Child processes of a command see those
files too, through $MOE_LAB_PLUGINS.
"""

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_lab.spec import contract
from moe_lab.spec.errors import UserError

PACKAGE = Path(__file__).parents[1]
FOLDERS = {
    "align": "gpu/align",
    "experts": "gpu/experts",
    "formats": "gpu/formats",
    "comm": "gpu/comm",
    "capture": "runs/capture",
    "parse": "runs/parse",
    "assembly": "runs/assembly",
    "cli": "cli",
}
FILES = "MOE_LAB_PLUGINS"


def names(kind: str) -> list[str]:
    """Return the plugins of one of ``FOLDERS``, sorted by name."""
    return sorted(_sources(kind))


def _sources(kind: str) -> dict[str, Path]:
    """Return name -> file; UserError if a plugin from outside has the name of another."""
    own = (p for p in (PACKAGE / FOLDERS[kind]).glob("*.py") if not p.stem.startswith("_"))
    found = {path.stem: path for path in own}
    for name, path in [*_installed(kind), *_given(kind)]:
        # The same file may come in both ways; another file would silently change what a name means.
        if found.setdefault(name, path) != path:
            raise UserError(f"There already is a plugin of {kind} called '{name}'; call {path.name} something else.")
    return found


@lru_cache
def _installed(kind: str) -> tuple[tuple[str, Path], ...]:
    """Return (name, file) of the entry points of ``moe_lab.<kind>``."""
    from importlib.metadata import entry_points

    # find_spec locates the file without running it.
    found = ((point.name, find_spec(point.module)) for point in entry_points(group=f"moe_lab.{kind}"))
    return tuple((name, Path(spec.origin)) for name, spec in found if spec and spec.origin)


def _given(kind: str) -> list[tuple[str, Path]]:
    """Return (name, file) of the files of a kind in $MOE_LAB_PLUGINS."""
    paths = [Path(part) for part in os.environ.get(FILES, "").split(os.pathsep) if part]
    if gone := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"${FILES} names {gone[0]}, which does not exist; remove it from the variable.")
    return [(path.stem, path) for path in paths if _info(path).get("kind") == kind]


def take(words: Sequence[str]) -> list[str]:
    """Take ``--plugin FILE.py`` off the front of a command line and make the files known here and to child processes.

    Raises:
        UserError: a file is missing, cannot be read as Python, or does not state its kind.
    """
    # Not by argparse: plugins add commands and options, so they must be known before the parser is made.
    rest, paths = list(words), []
    while rest and rest[0].partition("=")[0] == "--plugin":
        _, given, value = rest.pop(0).partition("=")
        path = Path(value if given else rest.pop(0) if rest else "")
        if not path.is_file():
            raise UserError(f"'{path.name}' is not a file; give --plugin the Python file of a plugin.")
        if _info(path).get("kind") not in list(FOLDERS):  # a list: the file's value may not be hashable
            raise UserError(f"{path.name} does not say what it is: its INFO needs 'kind', one of {', '.join(FOLDERS)}.")
        paths.append(str(path.absolute()))
    if paths:
        os.environ[FILES] = os.pathsep.join([*paths, *filter(None, [os.environ.get(FILES)])])
    return rest


def info(kind: str, name: str) -> dict[str, Any]:
    """Return the plugin's ``INFO``, a module-level literal, read from its source without importing it.

    Every plugin has ``INFO = {"about": "...", ...}``; ``moe_lab.spec.contract`` lists the keys.

    Raises:
        UserError: there is no such plugin, or its INFO is missing or breaks the contract.
    """
    return _said(kind, name, _sources(kind))


def _said(kind: str, name: str, sources: dict[str, Path]) -> dict[str, Any]:
    if name not in sources:
        raise UserError(f"No {kind} plugin is called '{name}'; choose one of: {', '.join(sorted(sources))}.")
    said = dict(_info(sources[name]))
    if not sources[name].is_relative_to(PACKAGE):  # the tests check our own
        contract.check(kind, name, said)
    return said


def _info(path: Path) -> dict[str, Any]:
    try:
        return _literal(path, path.stat().st_mtime_ns)
    except (OSError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path.name} cannot be read as a plugin ({type(error).__name__}); it must be a Python file with a literal "
            "INFO dictionary (see CONTRIBUTING.md)."
        ) from None


@lru_cache(500)
def _literal(path: Path, changed: int) -> dict[str, Any]:  # `changed` only keys the cache: an edited file is read again
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == "INFO" for t in targets):
                return dict(ast.literal_eval(node.value))
    raise UserError(f"{path.name} has no INFO dictionary; give it one (see CONTRIBUTING.md).")


def unavailable(kind: str, name: str) -> str | None:
    """Return None if every module that the plugin needs can be found, else ``unavailable: needs X``."""
    return _lacking(info(kind, name))


def _lacking(known: dict[str, Any], without: Sequence[str] = ()) -> str | None:
    missing = [m.removeprefix("peer:") for m in known.get("needs", []) if m not in without and not _found(m)]
    how = f" ({known['install']})" if "install" in known else ""
    return f"unavailable: needs {', '.join(missing)}{how}" if missing else None


def _found(module: str) -> bool:
    if module.startswith("peer:"):
        from moe_lab.spec import peers  # only few plugins need it

        return peers.find(module.removeprefix("peer:")) is not None
    name, setting, value = module.partition("=")
    if setting:
        return os.environ.get(name) == value
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is missing
        return False


def load(kind: str, name: str, without: Sequence[str] = ()) -> ModuleType:
    """Import the plugin.

    Args:
        kind: one of ``FOLDERS``.
        name: of the plugin.
        without: modules that it may lack, because what needs them is not called.

    Raises:
        UserError: there is no such plugin, a module that it needs is missing, or a file from outside fails.
    """
    sources = _sources(kind)
    if reason := _lacking(_said(kind, name, sources), without):
        raise UserError(
            f"{kind} plugin '{name}' is {reason}; install that, or choose another one of: {', '.join(sorted(sources))}."
        )
    path = sources[name]
    if path.is_relative_to(PACKAGE):
        return importlib.import_module(f"moe_lab.{FOLDERS[kind].replace('/', '.')}.{name}")
    # A prefix of our own, so that a plugin called `torch` does not take the place of the library.
    module = _outside(f"moe_lab_plugin_{kind}.{name}", path)
    contract.check_names(kind, name, module)
    contract.check_unread(kind, name, module)
    return module


def _outside(called: str, path: Path) -> ModuleType:
    if called in sys.modules:
        return sys.modules[called]
    spec = spec_from_file_location(called, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[called] = module  # before it runs, as import does: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[called]
        raise UserError(f"The plugin {path.name} fails to load ({type(error).__name__}: {error}).") from error
    return module
