"""The laws of the layout, read from the sources."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPO

PACKAGE = REPO / "moe_lab"

# Top-down, as CONTRIBUTING.md draws it: a room may import only from itself or from an earlier one of its half.
SHARED = ["spec"]
GPU_HALF = [*SHARED, "gpu"]
HOST_HALF = [*SHARED, "runs", "analysis", "pages", "report", "cli"]
HEAVY = {"torch", "triton", "nvtx"}


def module_files() -> dict[str, list[Path]]:
    """Return the files of each top-level module or folder of the package."""
    files: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        files.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return files


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Return the dotted names that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_the_house_has_at_most_ten_entries_and_each_has_a_place_in_the_picture() -> None:
    entries = {p.name for p in PACKAGE.iterdir()} - {"__pycache__"}
    assert entries == {"__init__.py", "__main__.py", "py.typed", *GPU_HALF, *HOST_HALF}
    assert len(entries) <= 10


def test_the_tree_that_the_map_draws_is_the_tree() -> None:
    drawn, room = set(), ""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    for line in text[text.index("    moe_lab/\n") :].splitlines()[1:]:
        if not line:
            break
        if (name := re.match(r"( {6}| {8})(\w+)/", line)) is None:
            continue
        room = name[2] if len(name[1]) == 6 else room
        drawn.add(name[2] if len(name[1]) == 6 else f"{room}/{name[2]}")
    folders = [p for pattern in ("*/", "*/*/") for p in PACKAGE.glob(pattern) if p.is_dir() and p.name != "__pycache__"]
    pages = {p for p in folders if p.parent.name == "pages" and p.name != "show"}  # of a notebook's name each
    assert drawn == {p.relative_to(PACKAGE).as_posix() for p in folders if p not in pages}


def test_no_file_is_long_and_nine_functions_of_ten_are_short() -> None:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
    long = [str(path.relative_to(PACKAGE)) for path in trees if len(path.read_text().splitlines()[1:]) > 250]
    assert not long, f"more than 250 lines: {long}"
    functions = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    lengths = sorted(f.end_lineno - f.lineno + 1 for f in functions)
    assert lengths[len(lengths) * 9 // 10] <= 27


def test_tests_mirror_the_package() -> None:
    folders = {p.name for p in Path(__file__).parent.iterdir() if p.is_dir()} - {"__pycache__", "builders", "samples"}
    assert folders == {*GPU_HALF, *HOST_HALF}


@pytest.mark.parametrize("half", [GPU_HALF, HOST_HALF], ids=["gpu-half", "host-half"])
def test_imports_point_one_way(half: list[str]) -> None:
    files = module_files()
    for height, room in enumerate(half):
        for path in files[room]:
            ours = {i.split(".")[1] for i in imports(path) if i.startswith("moe_lab.")}
            above = ours - set(half[: height + 1]) - {"__version__"}
            assert not above, f"{path.relative_to(PACKAGE)} imports {sorted(above)}, which lies above it"


def test_host_half_names_torch_nowhere_at_import_time() -> None:
    files = module_files()
    for path in (path for room in HOST_HALF for path in files[room]):
        heavy = {i.split(".")[0] for i in imports(path, top_level_only=True)} & HEAVY
        assert not heavy, f"{path.relative_to(PACKAGE)} imports {sorted(heavy)}"


def test_host_half_imports_with_torch_and_triton_blocked() -> None:
    modules = [
        "moe_lab." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for room in HOST_HALF
        for p in module_files()[room]
    ]
    code = f"""
import sys
for name in {sorted(HEAVY)!r}:
    sys.modules[name] = None
import importlib
for name in {modules!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_analysis_never_draws_and_plots_never_read_files() -> None:
    for path in (PACKAGE / "analysis").rglob("*.py"):
        assert not {i for i in imports(path) if i.split(".")[0] == "plotly"}, path.name
    for path in (PACKAGE / "pages").rglob("plots.py"):
        assert not {i for i in imports(path) if i.startswith(("moe_lab.runs", "moe_lab.spec.guard"))}, path


def test_analysis_is_table_to_table_and_reads_no_files() -> None:
    """Of runs it knows the type, and what attribution makes of tables; pages/load.py is what loads."""
    for path in (PACKAGE / "analysis").rglob("*.py"):
        runs = {i for i in imports(path) if i.startswith(("moe_lab.runs", "moe_lab.spec.guard.places"))}
        taken = {i for i in runs if i != "moe_lab.runs.Run" and not i.startswith("moe_lab.runs.attribution.")}
        assert not taken | ({"moe_lab.runs"} & imports(path)), f"{path.name} loads: {sorted(taken)}"
