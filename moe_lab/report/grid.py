"""Grid files: many points of one notebook's parameters."""

from itertools import product
from pathlib import Path
from typing import Any

from moe_lab.errors import UserError

MAX_POINTS = 500


def read(path: Path) -> list[dict[str, Any]]:
    """Return the points of a grid file.

    A mapping of names to lists (or single values) is their product, the last name varying fastest; a list holds the
    points themselves, one mapping each.

    Raises:
        UserError: the file is missing, no YAML, of another form, empty, or has more than ``MAX_POINTS`` points.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"The grid file '{path}' does not exist; give a YAML file of parameter names and lists."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The grid file '{path}' cannot be read as YAML: {str(error).splitlines()[0]}.") from error
    if isinstance(content, dict):
        lists = {str(k): v if isinstance(v, list) else [v] for k, v in content.items()}
        points = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())] if lists else []
    elif isinstance(content, list) and all(isinstance(p, dict) for p in content):
        points = [{str(k): v for k, v in p.items()} for p in content]
    else:
        raise UserError(
            f"The grid file '{path}' must map parameter names to lists of values, or list the points as mappings."
        )
    if not 0 < len(points) <= MAX_POINTS:
        raise UserError(f"The grid file '{path}' has {len(points)} points; give 1 to {MAX_POINTS}.")
    return points
