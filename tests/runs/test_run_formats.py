"""Runs of torch.profiler traces: as complete, small, redacted and faithful as those of nsys."""

import gzip

import pandas as pd
import pytest
from kineto_builder import H200, KinetoBuilder

from moe_lab import cli, runs
from moe_lab.analysis.breakdown import breakdown
from moe_lab.runs.parse import parse_report
from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError

SECRETS = ("lovelace", "analytical-engine", "hf_topsecret", "GPU-uuid-1234", "/srv", "confidential-process", "4711")


def trace():
    """Two threads, modules, a graph, copies, a missing call, an unknown one, and secrets wherever Kineto has room."""
    b = KinetoBuilder(
        pid=4711,
        host_name="analytical-engine",
        distributedInfo={"backend": "nccl", "rank": 0, "host": "analytical-engine", "user": "lovelace"},
        PYTORCH_ENV="HF_TOKEN=hf_topsecret",
        deviceProperties=[{**H200, "uuid": "GPU-uuid-1234"}],
    )
    b.metadata()
    b.events.append(
        {
            "name": "process_labels",
            "ph": "M",
            "pid": 4711,
            "tid": 0,
            "args": {"labels": "confidential-process lovelace"},
        }
    )
    for step in range(4):
        at = 10_000 * (step + 1)
        b.push(f"ProfilerStep#{step}", at, at + 9000, thread=4711)
        b.push("load /srv/lovelace/w.bin on analytical-engine", at + 100, at + 2000, thread=4711)
        b.launch(at + 110, 10 * step + 1, gpu=(at + 3000, at + 3100 + step), thread=4711, name="a_/srv/lovelace/k")
        b.call(at + 300, at + 310, 10 * step + 2, thread=4711, name="cudaMemcpyAsync")
        b.copy(at + 3200, at + 3300, 10 * step + 2)
        b.operator("aten::mm", at + 400, at + 500, 100 + step, thread=4711)
        b.kernel(at + 3300, at + 3350, 10 * step + 3, external=100 + step)
        b.module("MoE_0", at + 2100, at + 5000, thread=4711)
        b.call(at + 2200, at + 2210, 10 * step + 4, thread=4711, name="cudaGraphLaunch")
        b.kernel(at + 4000, at + 4100, 10 * step + 4, node=(1 << 32) + 5)
        b.copy(at + 4100, at + 4110, 10 * step + 4, category="gpu_memset", name="Memset (Device)")
        b.push("other", at, at + 500, thread=4712)
        b.launch(at + 20, 10 * step + 5, gpu=(at + 5000, at + 5001), thread=4712, stream=8)
    b.kernel(90_000, 90_100, 999)
    b.events[-1]["args"]["Call stack"] = "/srv/lovelace/model.py(3)"
    return b


def every_byte(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    packed = [gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes() for p in files]
    return b"".join(packed) + b"".join(p.name.encode() for p in files)


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_run_of_a_trace_says_the_same_and_lets_no_secret_survive(suffix, tmp_path):
    source = trace().write(tmp_path / f"lovelace{suffix}")
    before = parse_report(source)
    run = runs.import_report(
        source, "steps", root=tmp_path / "profiles", manifest={"command": ["/srv/lovelace/python"]}
    )
    assert run.manifest["name"] == "h200/steps"
    assert run.report.name == "report.json.gz"
    assert run.manifest["source_report"] == {"schema": "1", "size_bytes": source.stat().st_size}
    kept = every_byte(run.path)
    for secret in SECRETS:
        assert secret.encode() not in kept, secret
    after = run.launches()
    numbers = [c for c in before.table.columns if c not in ("name", "name_full")]
    pd.testing.assert_frame_equal(before.table[numbers], after.table[numbers])
    columns = ["parent_id", "depth", "start_ns", "end_ns", "process", "thread"]
    pd.testing.assert_frame_equal(before.ranges[columns], after.ranges[columns])
    assert "load w.bin on host" in set(after.ranges["name"])
    assert before.meta["gpu"] == after.meta["gpu"]
    assert before.meta["warnings"] == after.meta["warnings"]


def test_same_trace_gives_the_same_bytes(tmp_path):
    source = trace().write(tmp_path / "t.json")
    first, second = (runs.import_report(source, f"x/{n}", root=tmp_path).report.read_bytes() for n in "ab")
    assert first == second
    assert first[4:8] == bytes(4), "gzip's time of day"


def test_first_instances_are_whole(tmp_path):
    """GIVEN four steps WHEN two are kept THEN their rows equal those of the whole trace, and the rest is gone."""
    source = trace().write(tmp_path / "t.json")
    run = runs.import_report(source, "x/y", root=tmp_path, keep_root="ProfilerStep", keep_instances=2)
    whole, part = (breakdown(r, "ProfilerStep", spread=True) for r in (parse_report(source), run.launches()))
    assert part["instances"].iloc[0] == 2
    assert part["kernels"].tolist() == whole["kernels"].tolist()
    assert part["kernel_sum_ms_min"].tolist() == whole["kernel_sum_ms_min"].tolist()
    assert "other" not in set(run.launches().ranges["name"])


def test_too_large_a_run_of_any_format_is_refused(tmp_path):
    source = trace().write(tmp_path / "t.json")
    with pytest.raises(UserError, match=r"more than the 0\.0 MB allowed"):
        runs.import_report(source, "x/y", root=tmp_path / "p", max_bytes=100)
    assert not (tmp_path / "p").exists()


def test_command_line_imports_and_reads_a_trace(tmp_path, capsys):
    source = trace().write(tmp_path / "t.json.gz")
    assert cli.main(["import", str(source), "--name", "x/y", "--profiles", str(tmp_path / "p")]) == 0
    assert cli.main(["breakdown", str(tmp_path / "p" / "x" / "y"), "--format", "csv"]) == 0
    said = capsys.readouterr()
    assert "ProfilerStep/MoE_0,MoE_0,1,4," in said.out
    assert "note: 8 operations of CUDA graphs are attributed to the range around the replay only" in said.err


def test_every_format_can_be_kept_as_a_run():
    for name in plugins.names("parse"):
        assert plugins.info("parse", name)["report"]
        assert callable(plugins.load("parse", name).slim)
