import pytest
from checkout import DATA
from nsys_builder import NsysBuilder

from moe_lab.runs.parse import parse_report


def real(name):
    """Return a real export, or skip: they are not part of the project."""
    path = DATA / "nsys" / name
    if not path.is_file():
        pytest.skip(f"{name} is a report of another project and not here")
    return path


def parsed(builder, tmp_path, **options):
    return parse_report(builder.write(tmp_path / "run.sqlite"), **options)


def graph(generation="2026.2", *, creations=True, replays=((1000, 50), (2000, 51)), process=1, b=None):
    """Return a report in which w13 and w2 were captured at 10 and 30, then replayed as nodes 101 and 102."""
    b = b or NsysBuilder(generation)
    b.push("moe_lab|M=1", 0, 100, process=process)
    b.push("mlp", 5, 95, process=process)
    b.push("w13", 8, 20, process=process)
    b.push("w2", 28, 40, process=process)
    if creations:
        b.node(10, 1, process=process)
        b.node(30, 2, process=process)
    b.node(200, 101, 1, process=process)
    b.node(200, 102, 2, process=process)
    for at, correlation in replays:
        b.push("moe_lab|M=1", at - 5, at + 50, process=process)
        b.replay(at, correlation, process=process)
        b.kernel(at + 10, at + 20, correlation, node=101, name="up", process=process)
        b.kernel(at + 20, at + 25, correlation, node=102, name="down", process=process)
    return b
