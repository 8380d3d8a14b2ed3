"""Report formats, one file each."""

from pathlib import Path
from typing import Any

from moe_lab import plugins
from moe_lab.errors import UserError
from moe_lab.launches import Launches


def parse_report(path: Path, **options: Any) -> Launches:
    """Read a report of any format that a plugin of this folder knows.

    Args:
        path: the report file.
        **options: keyword arguments of the plugin's ``parse``.

    Raises:
        UserError: no plugin reads the file, or the one that should finds something wrong with it.
    """
    path = Path(path)
    if path.suffix == ".nsys-rep":
        raise UserError(
            f"{path.name} is a raw Nsight Systems report; run `nsys export --type=sqlite -o {path.stem}.sqlite "
            f"{path.name}` and give the .sqlite file, or let `moe-lab import` do that."
        )
    if not path.is_file():
        raise UserError(f"There is no report {path.name}; give the path of a report file that exists.")
    for name in plugins.names("parse"):
        plugin = plugins.load("parse", name)
        if plugin.sniff(path):
            launches: Launches = plugin.parse(path, **options)
            return launches
    known = "; ".join(f"{name}: {plugins.info('parse', name)['about']}" for name in plugins.names("parse"))
    raise UserError(f"{path.name} is in no format that moe-lab reads ({known}).")
