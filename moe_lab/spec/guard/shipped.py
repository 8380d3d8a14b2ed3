# SPDX-License-Identifier: Apache-2.0
"""What an installed moe_lab carries: the notebooks and the committed runs, which in a checkout lie beside it."""

from pathlib import Path

from moe_lab.spec.guard.places import MANIFEST, profiles_root

RUNS = f"*/*/{MANIFEST}"  # the files that say where the runs of a profiles folder are
_PACKAGE = Path(__file__).parents[2]
_SHIPPED = _PACKAGE / "shipped"  # only in an installed wheel: pyproject.toml puts both there


def notebooks() -> Path:
    """Return the folder of our notebooks; it may be missing where only the package was copied."""
    return (_SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent) / "notebooks"


def profiles() -> list[Path]:
    """Return the folder of runs that an installed moe_lab carries, in a list; in a checkout an empty list."""
    return [_SHIPPED / "profiles"] if _SHIPPED.is_dir() else []


def roots() -> list[Path]:
    """Return the folders from which runs are read: ``profiles_root()``, then what an installed moe_lab carries."""
    return [profiles_root(), *profiles()]
