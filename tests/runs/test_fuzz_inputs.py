"""Whatever a file or an option holds, a command ends with 0, 1 or 2 and, for a mistake, with one sentence."""

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from moe_lab import cli
from moe_lab.report import grid, notebooks
from moe_lab.spec import bench_options, models
from moe_lab.spec.errors import UserError
from moe_lab.spec.guard.options import seconds

FEW = settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
ODD = ["", "²", "-1", "\x1b[31m", "<!--<script>", "../x", "\ud800", "a" * 300, "１", "0", "1e400", "NaN"]
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(ODD),
)
KEYS = st.text(max_size=3)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
TILE = {"block_m": 16, "block_n": 64, "block_k": 128, "group_m": 1, "num_warps": 4, "num_stages": 4}
ENGINE = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": 64, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1, "num_warps": 4, "SPLIT_K": 1}
SIZES = {"E": 8, "N": 14336, "K": 4096, "topk": 2, "format": "bf16"}
POINT = {"w13": TILE, "w2": TILE, "us": 5.0, "one": None, "one_us": None}
TILES = {
    "format": "moe_lab tiles 1",
    "backend": "fused_moe",
    "gpu": "NVIDIA H200",
    "problem": SIZES,
    "M": {"16": POINT},
}
GPU = {"name": "NVIDIA H200", "sm_count": 132}
HEAD = {"bench": "align", "key": ["M"], "gpu": GPU, "versions": {"torch": "2"}, "command": ["x"], "settings": {}}
ROWS = {"count": 1, "columns": {"M": "Int64"}, "constants": {}, "names": {}, "failed": 0, "complete": True}
RUN = {"name": "g/r", "gpu": GPU, "tool": {"name": "x"}, "workload": {"M": 1, "problem": SIZES}, "versions": {}}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested dictionaries and lists."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in inside for found in places(inner, (*path, key)))]


@st.composite
def changed(draw: Any, value: Any) -> str:
    """GIVEN a JSON file of ours in which one value, or a key, is another, or of which a part is missing."""
    path = draw(st.sampled_from(places(value)))
    copy = json.loads(json.dumps(value))
    if not path:
        copy = draw(VALUES)
    else:
        holder = copy
        for key in path[:-1]:
            holder = holder[key]
        if isinstance(holder, dict) and draw(st.booleans()):
            holder[draw(st.sampled_from(ODD))] = holder.pop(path[-1])
        else:
            holder[path[-1]] = draw(VALUES)
    text = json.dumps(copy)
    cut = draw(st.sampled_from([0, 0, 0, 1, 5]))
    return text[: len(text) - cut] + draw(st.sampled_from(["", "", "\n", "x", "{}"]))


def outcome(argv: list[str]) -> int:
    """WHEN a command runs, THEN it ends as promised."""
    err, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            code = cli.main(argv)
        except SystemExit as ended:  # argparse, which prints the usage before its sentence
            return {0: 0, 2: 2}[ended.code]
    said = err.getvalue()
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    assert "a defect of moe-lab" not in said, said
    assert not (set(map(chr, range(32))) - {"\n", "\t"}) & set(said + out.getvalue())
    if code == 2:
        assert said.count("\n") == 1
        assert said.startswith("moe-lab: ")
    return code


@contextlib.contextmanager
def holding(name: str, text: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        yield path


@seed(1)
@FEW
@given(changed(TILES))
def test_any_file_of_tiles_is_taken_or_refused(text: str) -> None:
    with holding("tiles.json", text) as path:
        outcome(["configs", "import", str(path), "--out", str(path.parent / "out")])
        kept = [p for p in path.parent.rglob("*") if p.is_file() and p != path]
        assert all((path.parent / "out") in p.parents for p in kept)
        for one in kept:
            outcome(["configs", "export", str(one), "--for", "sglang", "--out", str(path.parent / "e")])


@seed(2)
@FEW
@given(changed({"triton_version": "3.5.0", "1": ENGINE, "64": ENGINE}), st.sampled_from(["sglang", "vllm"]))
def test_any_file_of_an_engine_is_taken_or_refused(text: str, engine: str) -> None:
    with holding("E=8,N=14336,device_name=NVIDIA_H200.json", text) as path:
        out = path.parent / "out"
        if outcome(["configs", "import", str(path), "--model", "mixtral-8x7b", "--out", str(out)]) == 0:
            (kept,) = out.rglob("*.json")
            outcome(["configs", "export", str(kept), "--for", engine, "--out", str(path.parent / "e")])


@seed(3)
@FEW
@given(changed(HEAD), changed({"M": 1, "median_us": 5.0, "error": None, "kernels_us": [["k", 1.0]]}))
def test_any_result_of_a_benchmark_is_taken_or_refused(head: str, row: str) -> None:
    with holding("result.json", f"{head}\n{row}\n") as path:
        argv = ["import", str(path), "--name", "g/r", "--profiles", str(path.parent / "p")]
        if outcome(argv) == 0:
            assert outcome(["runs", "--profiles", str(path.parent / "p")]) == 0


@seed(4)
@FEW
@given(changed(RUN) | changed(RUN | {"bench": "tune", "report": "rows.csv", "rows": ROWS}))
def test_any_run_json_is_taken_or_refused(text: str) -> None:
    with holding("g/r/run.json", text) as path:
        path.with_name("rows.csv").write_text("M\n1\n")
        outcome(["runs", "--profiles", str(path.parents[1].parent)])
        outcome(["breakdown", str(path.parent)])
        outcome(["configs", "export", str(path.parent), "--for", "vllm", "--out", str(path.parent / "out")])


@seed(5)
@FEW
@given(st.one_of(VALUES.map(lambda v: yaml.safe_dump(v)), st.text(max_size=40)))
def test_any_grid_is_points_or_one_sentence(text: str) -> None:
    with holding("grid.yaml", text) as path, contextlib.suppress(UserError):
        points = grid.read(path)
        assert 1 <= len(points) <= grid.MAX_POINTS
        assert all(isinstance(name, str) for point in points for name in point)


@seed(6)
@FEW
@given(st.text(max_size=30) | st.sampled_from(["a = 1", "a = [1, 'x']", "a = (", "a: int = 5", "a = f()"]), VALUES)
def test_any_parameters_cell_and_value_is_a_job_or_one_sentence(source: str, value: object) -> None:
    cell = new_code_cell(source, id="a", metadata={"tags": ["parameters"]})
    text = nbformat.writes(new_notebook(cells=[cell])) if source.isprintable() else "{"
    with holding("nb.ipynb", text) as path, contextlib.suppress(UserError):
        (job,) = notebooks.jobs([path], {"a": value}, [{}])
        json.dumps(job.parameters, allow_nan=False).encode()


@seed(7)
@FEW
@given(st.sampled_from(ODD) | st.text(max_size=12))
def test_any_text_of_an_option_is_taken_or_refused(text: str) -> None:
    for read in (bench_options.numbers, seconds, models.sizes, bench_options.listed):
        with contextlib.suppress(UserError):
            read(text)
    for option in ("--keep", "--max-mb", "--root", "--name"):
        assert outcome(["import", "nothing.sqlite", f"{option}={text}"]) == 2
    assert outcome(["report", f"--grid={text}.yaml", "01"]) == 2


def test_what_the_fuzz_begins_with_is_right() -> None:
    with holding("tiles.json", json.dumps(TILES)) as path:
        assert outcome(["configs", "import", str(path), "--out", str(path.parent / "out")]) == 0
    with holding("result.json", f'{json.dumps(HEAD)}\n{{"M": 1}}\n') as path:
        assert outcome(["import", str(path), "--name", "g/r", "--profiles", str(path.parent / "p")]) == 0
