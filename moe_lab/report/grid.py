# SPDX-License-Identifier: Apache-2.0
"""Grid files: many points of a notebook's parameters."""

import os
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.entry import one_line, read_yaml

MAX_POINTS = 500  # most pages of one command; counted before the points are made


def read(path: Path) -> list[dict[str, Any]]:
    """Return the points of a grid file.

    A mapping of names to lists (or single values) stands for their product, the last name varying fastest; a list holds
    the points themselves, one mapping each. There may be at most ``MAX_POINTS``.
    """
    then = "give parameter names with lists of values, or a list of points"
    if not os.path.exists(path):
        raise UserError(f"The grid file '{one_line(path.name)}' does not exist; {then}.")
    content = read_yaml(path, what="YAML", then=then)
    if isinstance(content, dict) and content:
        lists = {_name(k, path): v if isinstance(v, list) else [v] for k, v in content.items()}
        _check_count(prod(len(values) for values in lists.values()), path)
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    if isinstance(content, list) and content and all(isinstance(point, dict) for point in content):
        _check_count(len(content), path)
        return [{_name(k, path): v for k, v in point.items()} for point in content]
    if content in (None, {}, []):
        raise UserError(f"The grid file '{one_line(path.name)}' has 0 points; give 1 to {MAX_POINTS}.")
    raise UserError(
        f"The grid file '{one_line(path.name)}' must map parameter names to lists of values, or list the points as "
        "mappings."
    )


def _check_count(points: int, path: Path) -> None:
    if not 0 < points <= MAX_POINTS:
        raise UserError(f"The grid file '{one_line(path.name)}' has {points:,} points; give 1 to {MAX_POINTS}.")


def _name(key: Any, path: Path) -> str:
    if not isinstance(key, str):
        raise UserError(f"The grid file '{one_line(path.name)}' has '{one_line(str(key), 40)}' as a parameter's name.")
    return key
