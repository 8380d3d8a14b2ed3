"""JSON of rocprofv3: the same tables as from its CSV files, of either release, and nothing that names the machine."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from rocprofv3_builder import API_HEADER, CALLS, COPIES, COPY_HEADER, KERNEL_HEADER, KERNELS, MARKERS, marker, write

from moe_lab import runs
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.spec.errors import UserError


def rows(header: str, lines: list[str]) -> list[dict[str, str]]:
    return list(csv.DictReader([header, *lines]))


HANDLE = 2**63  # what the file calls agent 0; that of agent 4 is four more
KINDS = [
    {"kind": "KERNEL_DISPATCH", "operations": ["KERNEL_DISPATCH_COMPLETE"]},
    {"kind": "MEMORY_COPY", "operations": ["MEMORY_COPY_NONE", "MEMORY_COPY_HOST_TO_DEVICE"]},
    {"kind": "HIP_RUNTIME_API_EXT", "operations": sorted({r["Function"] for r in rows(API_HEADER, CALLS)})},
    {"kind": "MARKER_CORE_RANGE_API", "operations": ["roctxThreadRangeA", "roctxProcessRangeA"]},
]
AGENTS = [
    {"id": {"handle": HANDLE}, "node_id": 0, "type": 1, "name": "a CPU", "cu_count": 0},
    {
        **{"id": {"handle": HANDLE + 4}, "node_id": 4, "logical_node_id": 4, "type": 2, "name": "gfx942"},
        **{"product_name": "AMD Instinct MI300X", "cu_count": 304, "wave_front_size": 64},
    },
]


def record(row: dict[str, str], kind: int, operation: int) -> dict[str, object]:
    """The fields that every record has, of a row of the CSV file."""
    times = {"start_timestamp": int(row["Start_Timestamp"]), "end_timestamp": int(row["End_Timestamp"])}
    correlation = {"correlation_id": {"internal": int(row["Correlation_Id"]), "external": 0}}
    thread = {"thread_id": int(row.get("Thread_Id", 717))}
    stream = {"stream_id": {"handle": int(row["Stream_Id"])}} if "Stream_Id" in row else {}
    return {"size": 64, "kind": kind, "operation": operation, **times, **correlation, **thread, **stream}


def agent(text: str) -> dict[str, int]:
    return {"handle": HANDLE + int(text.removeprefix("Agent "))}


def dispatched(row: dict[str, str], number: int) -> dict[str, object]:
    sizes = {
        f"{of.lower()}_size": {axis.lower(): int(row[f"{of}_Size_{axis}"]) for axis in "XYZ"}
        for of in ("Workgroup", "Grid")
    }
    memory = {"group_segment_size": int(row["LDS_Block_Size"]), "private_segment_size": int(row["Scratch_Size"])}
    where = {"agent_id": agent(row["Agent_Id"]), "queue_id": {"handle": int(row["Queue_Id"])}}
    return record(row, 0, 0) | {"dispatch_info": {**where, "kernel_id": number, **sizes, **memory}}


def symbol(row: dict[str, str], number: int) -> dict[str, object]:
    registers = {"arch_vgpr_count": "VGPR_Count", "accum_vgpr_count": "Accum_VGPR_Count", "sgpr_count": "SGPR_Count"}
    counts = {ours: int(row[theirs]) for ours, theirs in registers.items()}
    return {"kernel_id": number, "kernel_name": "_Zx", "formatted_kernel_name": row["Kernel_Name"], **counts}


def results(path: Path, markers: list[str] = MARKERS, **changed: object) -> Path:
    """Write the rows of ``rocprofv3_builder`` as JSON; ``changed`` are fields of the process."""
    kernels, ranges = rows(KERNEL_HEADER, KERNELS), rows(API_HEADER, markers)
    ends = ("Source_Agent_Id", "Destination_Agent_Id")
    buffers = {
        "kernel_dispatch": [dispatched(row, n) for n, row in enumerate(kernels)],
        "memory_copy": [
            record(row, 1, 1) | dict(zip(("src_agent_id", "dst_agent_id"), (agent(row[e]) for e in ends), strict=True))
            for row in rows(COPY_HEADER, COPIES)
        ],
        "hip_api": [record(r, 2, KINDS[2]["operations"].index(r["Function"])) for r in rows(API_HEADER, CALLS)],
        "marker_api": [record(row, 3, int(row["Thread_Id"] == "0")) for row in ranges],
    }
    process = {
        "metadata": {"pid": 717, "node": {"hostname": "analytical-engine"}, "command": ["x", "--key", "hf_topsecret"]},
        "agents": AGENTS,
        "strings": {
            "buffer_records": KINDS,
            "marker_api": [{"key": int(row["Correlation_Id"]), "value": row["Function"]} for row in ranges],
        },
        "kernel_symbols": [symbol(row, n) for n, row in enumerate(kernels)],
        "buffer_records": buffers,
        **changed,
    }
    path.write_text(json.dumps({"rocprofiler-sdk-tool": [process]}))
    return path


def test_json_gives_the_tables_of_the_csv_files(tmp_path):
    markers = [*MARKERS, marker("request", 10, 990, 1500, thread=0)]
    csv_files = write(tmp_path / "csv", kernels=KERNELS, markers=markers, calls=CALLS, copies=COPIES)
    path = results(tmp_path / "717_results.json", markers)
    assert format_of(path) == format_of(tmp_path) == "rocprofv3"
    found, wanted = parse_report(path), parse_report(csv_files)
    pd.testing.assert_frame_equal(found.table, wanted.table)
    pd.testing.assert_frame_equal(found.ranges, wanted.ranges)
    assert found.meta == wanted.meta


def test_json_of_an_older_release_lacks_streams_and_registers(tmp_path):
    path = results(tmp_path / "r.json", kernel_symbols=[{"kernel_id": n, "kernel_name": f"k{n}"} for n in range(3)])
    path.write_text(path.read_text().replace('"stream_id"', '"unknown"'))
    table = parse_report(path).table
    assert table["name"].tolist()[:3] == ["k0", "k1", "k2"]
    assert table["registers_per_thread"].isna().all()
    assert table["stream"].tolist()[:3] == [1, 1, 1], "the queue"


def test_run_of_json_keeps_no_command_and_no_host(tmp_path):
    source = results(tmp_path / "r.json", [marker("mlp on analytical-engine", 11, 1000, 1400)])
    run = runs.import_report(source, "decode", root=tmp_path / "profiles")
    kept = b"".join(p.read_bytes() for p in sorted(run.path.rglob("*")) if p.is_file())
    assert b"analytical-engine" not in kept
    assert b"hf_topsecret" not in kept
    assert run.launches().ranges["name"].tolist() == ["mlp on host"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"end_timestamp": 5600', '"end_timestamp": 4600', "end before they start .* the first in record 1"),
        ('"start_timestamp": 5000', '"start_timestamp": -1', "record 1 has -1 in column Start_Timestamp"),
        ('"pid": 717', '"pid": "x"', "cannot be read as a JSON trace"),
        ('"correlation_id"', '"other"', "cannot be read as a JSON trace"),
        ("}}]}", "", "cannot be read as a JSON trace"),
        ('"queue_id": {"handle": 1}', f'"queue_id": {{"handle": {2**63}}}', "cannot be read as a JSON trace"),
    ],
)
def test_damaged_json_is_one_sentence(old, new, said, tmp_path):
    path = results(tmp_path / "r.json")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=said):
        parse_report(path)


def test_json_without_a_process_is_one_sentence(tmp_path):
    (tmp_path / "r.json").write_text('{"rocprofiler-sdk-tool": []}')
    with pytest.raises(UserError, match="cannot be read as a JSON trace"):
        parse_report(tmp_path / "r.json")
