# SPDX-License-Identifier: Apache-2.0
"""Import one file of a package without the package: the other modules that it imports from it are stand-ins.

A project's kernel file imports half of its project: loggers, platform checks, quantisation, compiled extensions. The
kernel needs none of that. While the file is imported, every module of its package is a stand-in that has any attribute,
so that decorators and base classes work; names that the file really uses get their true value from ``answers``. After
the import the stand-ins close: calling one, or asking one for a value, raises an error, so that a path that would need
the rest of the project cannot silently give a wrong result. ``sys.modules`` is left as it was: the imported module
lives only in the returned object, and the real package can still be imported.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from moe_lab.spec.errors import UserError


class _Door:
    """Whether stand-ins still answer; all those of one import share it."""

    open = True


class StandIn:
    """Anything that a file imports from the rest of its project: false as a condition, and closed after the import."""

    def __init__(self, name: str, door: _Door):
        self._name, self._door = name, door

    def _answer(self, name: str) -> "StandIn":
        if not self._door.open:
            raise UserError(f"'{name}' is not in the files that were read; this path needs the whole project.")
        return StandIn(name, self._door)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for these to learn what an object can do
            raise AttributeError(name)
        return self._answer(f"{self._name}.{name}")

    def __call__(self, *values: Any, **named: Any) -> Any:
        """Answer a call; as a decorator, return the function that it decorates."""
        answer = self._answer(f"{self._name}()")
        return values[0] if len(values) == 1 and not named and callable(values[0]) else answer

    def __getitem__(self, key: Any) -> Any:
        return self._answer(f"{self._name}[{key!r}]")

    def __mro_entries__(self, bases: Any) -> tuple[type, ...]:
        return ()  # as a base class it adds nothing

    def __or__(self, other: Any) -> Any:
        return self

    __ror__ = __or__

    def __bool__(self) -> bool:
        self._answer(self._name)
        return False  # so that optional parts of the project count as missing


class _Module(ModuleType):
    def __init__(self, name: str, answers: Mapping[str, Any], door: _Door):
        super().__init__(name)
        self.__path__: list[str] = []  # makes it a package, so that modules below it can be imported
        self._answers, self._door = answers, door

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._answers[name] if name in self._answers else StandIn(f"{self.__name__}.{name}", self._door)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, package: str, answers: Mapping[str, Any], door: _Door):
        self._package, self._answers, self._door = package, answers, door

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        ours = name == self._package or name.startswith(f"{self._package}.")
        return spec_from_loader(name, self, is_package=True) if ours else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, self._answers, self._door)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Hide the package from ``sys.modules``, and remove at the end what was imported under its name meanwhile."""
    kept = {name: sys.modules.pop(name) for name in _of(package)}
    try:
        yield
    finally:
        for name in _of(package):
            del sys.modules[name]
        sys.modules.update(kept)


def _of(package: str) -> list[str]:
    return [name for name in sys.modules if name == package or name.startswith(f"{package}.")]


def load_file(path: Path, package: str, answers: Mapping[str, Any]) -> ModuleType:
    """Import one file of a package.

    Args:
        path: the file; its module name follows from its folders below ``package``.
        package: its top-level package.
        answers: name -> what ``from package.anything import name`` gets.

    Raises:
        UserError: the file cannot be imported alone; the original error is its cause.
    """
    parts = path.with_suffix("").parts
    name = ".".join(parts[len(parts) - 1 - parts[::-1].index(package) :])
    door = _Door()
    finder = _Finder(package, answers, door)
    with _without(package):
        sys.meta_path.insert(0, finder)  # before Python's own, which would find an installed package
        try:
            spec = spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
        except Exception as error:
            raise UserError(
                f"'{path.name}' of {package} cannot be imported alone ({type(error).__name__}: {error}); use another "
                "release, or install the whole package."
            ) from error
        finally:
            sys.meta_path.remove(finder)
            door.open = False
    return module


def load_package(root: Path, package: str, modules: Sequence[str]) -> dict[str, ModuleType]:
    """Import modules of a package in the folder ``root``, even if another one of that name is installed.

    Args:
        root: folder that contains the package's folder.
        package: its name.
        modules: dotted names below it; ``""`` is the package itself.

    Raises:
        UserError: one cannot be imported.
    """
    with _without(package):
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()  # ``peers add`` may have written the folder in this process
        try:
            return {name: importlib.import_module(f"{package}.{name}".rstrip(".")) for name in modules}
        except Exception as error:
            raise UserError(
                f"{package} cannot be imported with this torch and triton ({type(error).__name__}: {error}); "
                "use another release."
            ) from error
        finally:
            sys.path.remove(str(root))
