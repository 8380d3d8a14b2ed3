"""torch.profiler as a capture: the argv literally, the runner as Python itself, a whole capture of a stand-in GPU."""

import gzip
import json
import stat
import subprocess
import sys

import pytest
from checkout import REPO
from kineto_builder import KinetoBuilder

from moe_lab import cli
from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.capture import capture, torch_profiler
from moe_lab.runs.capture.torch_profiler import RUNNER, Options
from moe_lab.spec.errors import UserError


@pytest.mark.parametrize(
    ("workload", "argv"),
    [
        (["python", "-m", "engine", "-x", "1"], ["python", str(RUNNER), "o", "all", "--", "-m", "engine", "-x", "1"]),
        (["python3.11", "run.py", "-m"], ["python3.11", str(RUNNER), "o", "all", "--", "run.py", "-m"]),
        (
            ["/opt/venv/bin/python", "-u", "-X", "dev", "-W", "error", "-c", "pass", "a"],
            [
                "/opt/venv/bin/python",
                "-u",
                "-X",
                "dev",
                "-W",
                "error",
                str(RUNNER),
                "o",
                "all",
                "--",
                "-c",
                "pass",
                "a",
            ],
        ),
    ],
    ids=["module", "file", "options"],
)
def test_command_runs_the_same_program_under_the_runner(workload, argv):
    assert torch_profiler.command(workload, "o", Options()) == argv


def test_scripts_that_python_runs_are_profiled_too(tmp_path):
    script = tmp_path / "vllm"
    for line, python in (
        ("#!/opt/e/bin/python3\n", ["/opt/e/bin/python3"]),
        ("#!/usr/bin/env -S python3 -u\n", ["python3", "-u"]),
    ):
        script.write_text(line)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        argv = torch_profiler.command([str(script), "bench"], "o", Options("profiler-api"))
        assert argv == [*python, str(RUNNER), "o", "profiler-api", "--", str(script), "bench"]


@pytest.mark.parametrize("workload", [["bash", "-c", "true"], ["python"], ["python", "-m"], ["python", "-"]])
def test_what_is_no_python_program_is_refused(workload):
    with pytest.raises(UserError, match=r"traces only Python|no program to profile"):
        torch_profiler.command(workload, "o", Options())


STAND_IN = """
class ProfilerActivity:
    CPU = CUDA = 1

class profile:
    '''Writes a GPU trace where the real one would write what the program did.'''
    def __init__(self, activities):
        self.log = []
    def start(self): self.log.append("start")
    def stop(self): self.log.append("stop")
    def export_chrome_trace(self, path):
        import pathlib
        here = pathlib.Path(__file__).parents[1]
        pathlib.Path(path).write_text((here / "gpu.json").read_text())
        (here / "log").write_text(" ".join(self.log))
"""


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A Python whose torch is a stand-in: no GPU, but a profiler that leaves the trace of one."""
    package = tmp_path / "site" / "torch"
    (package / "cuda").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from . import cuda, profiler\n__version__ = '9.9+stand.in'\nclass version: cuda = '13.0'\n"
    )
    (package / "cuda" / "__init__.py").write_text(
        "from . import nvtx, profiler\ndef is_available(): return False\ndef is_initialized(): return False\n"
    )
    (package / "cuda" / "nvtx.py").touch()
    (package / "cuda" / "profiler.py").write_text("def start(): pass\ndef stop(): pass\n")
    (package / "profiler.py").write_text(STAND_IN)
    b = KinetoBuilder(
        48030017, host_name="analytical-engine", trace_id="SECRET-TRACE", distributedInfo={"rank": 0, "pg": "ada"}
    )
    b.metadata()
    b.push("mlp", 100, 900)
    b.push("load /home/ada/w.bin on analytical-engine", 200, 300)
    b.launch(210, 1, gpu=(1000, 1010), name="fused_moe_kernel")
    b.event("cpu_op", "aten::mm", 205, 220, (b.pid, 1), **{"External id": 3, "Call stack": "/home/ada/moe.py(3): run"})
    b.call(500, 510, 77, name="cudaDeviceSynchronize")
    b.write(tmp_path / "site" / "gpu.json")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    return sys.executable


def test_capture_of_any_python_command_is_a_redacted_run(python, tmp_path):
    code = "import os, torch, sys; assert os.environ['MOE_LAB_RANGES'] == 'torch'; sys.exit(0)"
    run = capture(
        torch_profiler, [python, "-c", code, "/home/ada/model", "--api-key", "sk-live"], "mlp", root=tmp_path / "p"
    )
    assert run.manifest["name"] == "h200/mlp"
    assert run.manifest["tool"] == {"name": "torch.profiler", "version": "9.9+stand.in", "options": ["--window=all"]}
    assert run.manifest["versions"]["torch"] == "9.9+stand.in"
    assert run.manifest["command"][1:] == ["-c", code, "model", "--api-key", "[redacted]"]
    kept = (run.path / "run.json").read_text() + gzip.decompress(run.report.read_bytes()).decode()
    for word in ("analytical-engine", "/home/ada", "SECRET-TRACE", "hf_topsecret", "sk-live", "48030017", "thread 1"):
        assert word not in kept
    assert "aten::mm" not in kept
    assert "cudaDeviceSynchronize" not in kept
    table = breakdown(run.launches())
    assert table["path"].tolist()[:2] == ["mlp", "mlp/load w.bin on host"]


def test_window_limits_the_trace_and_traces_once(python, tmp_path):
    code = "import torch; p = torch.cuda.profiler; p.start(); p.stop(); p.start(); p.stop()"
    capture(torch_profiler, [python, "-c", code], "x", options=Options("profiler-api"), root=tmp_path / "p")
    assert (tmp_path / "site" / "log").read_text() == "start stop"
    with pytest.raises(UserError, match=r"never called torch\.cuda\.profiler\.start.*try --window all"):
        capture(torch_profiler, [python, "-c", ""], "y", options=Options("profiler-api"), root=tmp_path / "p")


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(3)", 3), ("raise SystemExit('stopped')", 1), ("1 / 0", 1)],
)
def test_failing_program_keeps_its_status_and_leaves_no_run(program, code, python, tmp_path):
    with pytest.raises(UserError, match=f"exit code {code}"):
        capture(torch_profiler, [python, "-c", program], "x", root=tmp_path / "p")
    assert not (tmp_path / "p").exists()


SHOW = "import json, sys; print(json.dumps([sys.argv[1:], sys.path, __name__, sys.modules['__main__'] is not None]))"


@pytest.mark.parametrize("kind", ["file", "module", "code"])
def test_program_sees_what_it_would_see_without_the_runner(kind, python, tmp_path):
    """sys.argv, sys.path and __name__: a module called nsys beside the runner must not shadow anything."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "show.py").write_text(SHOW)
    program = {"file": ["app/show.py"], "module": ["-m", "app.show"], "code": ["-c", SHOW]}[kind]
    seen = []
    for prefix in ([], [str(RUNNER), str(tmp_path / "t.json"), "all", "--"]):
        done = subprocess.run(
            [python, *prefix, *program, "a", "-b"], capture_output=True, text=True, cwd=tmp_path, check=True
        )
        seen.append(json.loads(done.stdout))
    plain, profiled = seen
    assert profiled == plain


def test_real_profiler_records_the_ranges_of_our_marker(tmp_path):
    """GIVEN the real torch on the CPU THEN marker("torch") gives nested user annotations in the trace."""
    pytest.importorskip("torch")
    code = (
        "import os, torch\nfrom moe_lab.gpu.workloads.window import range_api\n"
        "from moe_lab.spec import ranges\nmark = ranges.marker(range_api())\n"
        "with mark('mlp'):\n  with mark('w13'): torch.ones(4) @ torch.ones(4)\n"
    )
    out = tmp_path / "t.json"
    done = subprocess.run(
        [sys.executable, RUNNER, out, "all", "--", "-c", code], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    events = json.loads(out.read_text())["traceEvents"]
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "user_annotation"}
    assert set(spans) == {"mlp", "w13"}
    assert spans["mlp"][0] <= spans["w13"][0] < spans["w13"][1] <= spans["mlp"][1]


def test_command_line_without_a_command_says_how(capsys):
    assert cli.main(["capture", "torch", "--name", "x", "--"]) == 2
    assert "moe-lab capture torch --name X -- python" in capsys.readouterr().err


NVTX = """
import nvtx, torch
from torch.cuda.nvtx import range

@nvtx.annotate()
def gate(): return torch.ones(4) @ torch.ones(4)

domain = nvtx.get_domain("engine")
with range("model"):
    torch.cuda.nvtx.range_push("mlp.experts")
    with nvtx.annotate("w13", color="red"): gate()
    torch.cuda.nvtx.range_pop()
    domain.push_range(domain.get_event_attributes(message="own domain"))
    domain.pop_range()
torch.cuda.nvtx.range_pop()
"""


def test_nvtx_ranges_of_a_program_are_annotations(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("nvtx")
    out = tmp_path / "t.json"
    subprocess.run([sys.executable, RUNNER, out, "all", "--", "-c", NVTX], check=True, cwd=tmp_path, timeout=60)
    events = json.loads(out.read_text())["traceEvents"]
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "user_annotation"}
    assert set(spans) == {"model", "mlp.experts", "w13", "gate", "own domain"}
    for outer, inner in (("model", "mlp.experts"), ("mlp.experts", "w13"), ("w13", "gate"), ("model", "own domain")):
        assert spans[outer][0] <= spans[inner][0] <= spans[inner][1] <= spans[outer][1]
    assert spans["own domain"][0] >= spans["mlp.experts"][1]
