"""The laws of the layout, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "moe_lab"

# Top-down, as the README draws it: a module may import only from its own level or from an earlier one.
LEVELS = [
    {"__init__", "errors", "entry", "options", "children", "terminal", "scratch", "places", "wording"},
    {
        "plugins",
        "problem",
        "ranges",
        "launches",
        "published",
        "bench_options",
        "window",
        "peers",
        "configs",
    },
    {"quant", "routing", "weights", "kernels", "align", "experts"},
    {"layer", "bench", "timing"},
    {"record", "bench_command"},
    {"align_command", "experts_command", "experts_bench", "tuning"},
    {"workload"},
]
HOST_LEVELS = [
    {"__init__", "errors", "entry", "options", "children", "terminal", "scratch", "places", "wording"},
    {"plugins", "problem", "ranges", "launches", "published", "mime", "bench_options", "peers", "configs"},
    {"rows", "row_types", "run_json", "metrics", "markup"},
    {"assemble", "attribute", "columns", "manifest", "redact", "replay", "tree", "parse"},
    {"runs"},
    {"capture", "analysis"},
    {"findings", "plots", "tables", "doctor", "bench_runs"},
    {"notes"},
    {"align_sort", "amd", "counters", "sweep", "tuned"},
    {"report"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
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


def test_every_module_has_a_place_in_the_picture() -> None:
    placed = set().union(*LEVELS, *HOST_LEVELS)
    assert set(module_files()) <= placed


@pytest.mark.parametrize("levels", [LEVELS, HOST_LEVELS], ids=["gpu-half", "host-half"])
def test_imports_point_one_way(levels: list[set[str]]) -> None:
    files = module_files()
    for height, level in enumerate(levels):
        allowed = set().union(*levels[: height + 1])
        for name in level & set(files):
            for path in files[name]:
                ours = {i.split(".")[1] for i in imports(path) if i.startswith("moe_lab.")}
                above = {i for i in ours if (PACKAGE / i).exists() or (PACKAGE / f"{i}.py").exists()} - allowed
                assert not above, f"{path.relative_to(PACKAGE)} imports {sorted(above)}, which lie above it"


def test_host_half_names_torch_nowhere_at_import_time() -> None:
    host = set().union(*HOST_LEVELS)
    for name, paths in module_files().items():
        for path in paths if name in host else []:
            heavy = {i.split(".")[0] for i in imports(path, top_level_only=True)} & HEAVY
            assert not heavy, f"{path.relative_to(PACKAGE)} imports {sorted(heavy)}"


def test_host_half_imports_with_torch_and_triton_blocked() -> None:
    host = set().union(*HOST_LEVELS) - {"__main__", "__init__"}
    modules = [
        "moe_lab." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for name, paths in module_files().items()
        for p in paths
        if name in host
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
    for path in (PACKAGE / "analysis").glob("*.py"):
        assert not {i for i in imports(path) if i.split(".")[0] == "plotly"}, path.name
    assert not {i for i in imports(PACKAGE / "plots.py") if i.startswith(("moe_lab.runs", "moe_lab.parse"))}
