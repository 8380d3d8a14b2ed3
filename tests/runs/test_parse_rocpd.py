"""rocpd databases of rocprofv3: a hand-made one with the documented views, beside everything that must not leave it."""

import sqlite3
from pathlib import Path

import pytest

from moe_lab import runs
from moe_lab.runs.parse import format_of, parse_report
from moe_lab.spec.errors import UserError

KERNEL_COLUMNS = (
    *("guid", "pid", "tid", "name", "agent_abs_index", "queue_id", "stream_id", "stack_id", "start", "end", "lds_size"),
    *("scratch_size", "vgpr_count", "accum_vgpr_count", "sgpr_count", "workgroup_x", "workgroup_y", "workgroup_z"),
    *("grid_x", "grid_y", "grid_z"),
)
COPY_COLUMNS = (
    *("guid", "pid", "tid", "name", "stream_id", "src_agent_abs_index", "dst_agent_abs_index", "stack_id", "start"),
    "end",
)
REGION_COLUMNS = ("guid", "pid", "tid", "category", "name", "stack_id", "start", "end", "extdata")
AGENT_COLUMNS = ("absolute_index", "logical_index", "type", "name", "product_name", "extdata")
NODE_COLUMNS = ("hostname", "environment")

GEMM = "void moe::gemm<float, (Act)1>(float*, int)"


def kernel(name, stack, start, end, guid="a", tid=7):
    return (guid, 7, tid, name, 4, 1, 2, stack, start, end, 2048, 16, 52, 4, 48, 64, 4, 1, 1000, 8, 1)


def marked(text, stack, start, end, function="roctxThreadRangeA", tid=7):
    return ("a", 7, tid, "MARKER_CORE_RANGE_API", function, stack, start, end, f'{{"message": "{text}"}}')


def called(name, stack, start, end):
    return ("a", 7, 7, "HIP_RUNTIME_API_EXT", name, stack, start, end, "{}")


def database(path: Path, *, kernels=None, regions=None) -> Path:
    tables = {
        "kernels": (KERNEL_COLUMNS, kernels or [kernel(GEMM, 2, 5000, 5600), kernel("Cijk.kd", 4, 5600, 5900)]),
        "memory_copies": (COPY_COLUMNS, [("a", 7, 7, "MEMORY_COPY_HOST_TO_DEVICE", 2, 0, 4, 5, 6000, 6100)]),
        "regions": (
            REGION_COLUMNS,
            regions
            or [
                marked("mlp", 1, 1000, 1400),
                called("hipLaunchKernel", 2, 1020, 1030),
                marked("w2 of /home/ada/m", 3, 1200, 1300),
                called("hipLaunchKernel", 4, 1250, 1260),
                called("hipMemcpyAsync", 5, 1350, 1360),
            ],
        ),
        "rocpd_info_agent": (
            AGENT_COLUMNS,
            [
                (0, 0, "CPU", "a CPU", "a CPU", "{}"),
                (4, 4, "GPU", "gfx942", "AMD Instinct MI300X", '{"cu_count": 304, "wave_front_size": 64}'),
            ],
        ),
        "rocpd_info_node": (NODE_COLUMNS, [("analytical-engine", "HF_TOKEN=hf_topsecret")]),
        "rocpd_kernel_dispatch_00a1": (("id",), []),
    }
    with sqlite3.connect(path) as connection:
        for name, (columns, rows) in tables.items():
            named = ", ".join(f'"{c}"' for c in columns)
            connection.execute(f"CREATE TABLE stored_{name} ({named})")
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM stored_{name}")
            marks = ", ".join("?" for _ in columns)
            connection.executemany(f"INSERT INTO stored_{name} VALUES ({marks})", rows)
    connection.close()
    return path


# The tables behind the views, as far as the views read them.
BEHIND = {
    "string": ("id", "guid", "string"),
    "info_node": ("id", "guid", "hostname"),
    "info_process": ("id", "guid", "pid"),
    "info_thread": ("id", "guid", "tid"),
    "info_agent": ("id", "guid", *AGENT_COLUMNS),
    "info_kernel_symbol": ("id", "guid", "display_name", "arch_vgpr_count", "accum_vgpr_count", "sgpr_count"),
    "event": ("id", "guid", "category_id", "stack_id", "extdata"),
    "region": ("guid", "pid", "tid", "start", "end", "name_id", "event_id"),
    "kernel_dispatch": (
        *("guid", "pid", "tid", "agent_id", "kernel_id", "queue_id", "stream_id", "start", "end", "event_id"),
        *("private_segment_size", "group_segment_size", "workgroup_size_x", "workgroup_size_y", "workgroup_size_z"),
        *("grid_size_x", "grid_size_y", "grid_size_z"),
    ),
    "memory_copy": (
        *("guid", "pid", "tid", "start", "end", "name_id", "dst_agent_id", "src_agent_id", "stream_id", "event_id"),
    ),
}


def without_views(path: Path) -> Path:
    """Write the tables of two processes, each with the id of its own, as rocpd's schema 3 has them."""
    with sqlite3.connect(path) as connection:
        for guid, launched in (("a", 1020), ("b", 1350)):
            texts = ("MARKER_CORE_RANGE_API", "roctxThreadRangeA", "HIP_RUNTIME_API", "hipLaunchKernel", "MEMORY_COPY")
            rows = {
                "string": [(n, guid, text) for n, text in enumerate((*texts, "MEMORY_COPY_HOST_TO_DEVICE"), 1)],
                "info_node": [(1, guid, "analytical-engine")],
                "info_process": [(1, guid, 7)],
                "info_thread": [(1, guid, 7)],
                "info_agent": [(1, guid, 4, 4, "GPU", "gfx942", "AMD Instinct MI300X", '{"cu_count": 304}')],
                "info_kernel_symbol": [(1, guid, GEMM, 52, 4, 48)],
                "event": [(1, guid, 1, 1, '{"message": "mlp"}'), (2, guid, 3, 2, "{}"), (3, guid, 5, 9, "{}")],
                "region": [(guid, 1, 1, 1000, 1300, 2, 1), (guid, 1, 1, launched, launched + 10, 4, 2)],
                "kernel_dispatch": [(guid, 1, None, 1, 1, 1, 2, 5000, 5600, 2, 16, 2048, 64, 4, 1, 1000, 8, 1)],
                "memory_copy": [(guid, 1, 1, 6000, 6100, 6, 1, 1, 2, 3)],
            }
            for table, columns in BEHIND.items():
                name = f'"rocpd_{table}_{guid}"'
                connection.execute("CREATE TABLE {} ({})".format(name, ", ".join(f'"{c}"' for c in columns)))
                marks = ", ".join("?" for _ in columns)
                connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows[table])
    connection.close()
    return path


def paths(found):
    return [found.ranges.loc[i, "path"] for i in found.table["range_id"].dropna()]


def test_kernels_of_a_database_find_their_ranges_and_sizes(tmp_path):
    """A range's text is its message; the view's name is only the roctx function."""
    path = database(tmp_path / "7_results.db")
    assert format_of(path) == format_of(tmp_path) == "rocprofv3"
    found = parse_report(path)
    assert paths(found) == ["mlp", "mlp/w2 of /home/ada/m", "mlp"]
    assert found.table["name"].tolist() == ["gemm", "Cijk.kd", "memcpy host to device"]
    row = found.table.iloc[0]
    assert (row["grid_blocks"], row["block_threads"], row["duration_ns"]) == (32, 256, 600)
    assert (row["registers_per_thread"], row["accumulation_registers_per_thread"], row["smem_bytes"]) == (52, 4, 2048)
    gpu = found.meta["gpu"]
    assert (gpu["name"], gpu["chip"], gpu["sm_count"], gpu["warp_threads"]) == (
        "AMD Instinct MI300X",
        "gfx942",
        304,
        64,
    )


def test_range_of_the_process_is_no_threads(tmp_path):
    regions = [
        marked("request", 1, 900, 2000, function="roctxProcessRangeA", tid=9),
        called("hipLaunchKernel", 2, 1020, 1030),
        called("hipLaunchKernel", 4, 1250, 1260),
    ]
    found = parse_report(database(tmp_path / "r.db", regions=regions))
    assert paths(found) == ["request", "request"], "the copy has no call here"


def test_two_databases_are_two_processes(tmp_path):
    database(tmp_path / "1_results.db")
    other = [("b", *kernel(GEMM, 2, 1, 2)[1:])]
    database(tmp_path / "2_results.db", kernels=other)
    assert parse_report(tmp_path).table["process"].nunique() == 2


def test_run_of_a_database_keeps_no_environment_host_or_path(tmp_path):
    source = database(tmp_path / "7_results.db", kernels=[kernel("k on analytical-engine", 2, 5000, 5600)])
    run = runs.import_report(source, "decode", root=tmp_path / "profiles")
    kept = b"".join(p.read_bytes() + p.name.encode() for p in sorted(run.path.rglob("*")) if p.is_file())
    for secret in (b"analytical-engine", b"hf_topsecret", b"HF_TOKEN", b"ada"):
        assert secret not in kept
    assert paths(run.launches())[0] == "mlp"
    assert run.manifest["name"] == "mi300x/decode"


def test_database_of_an_unknown_schema_is_refused_with_a_way_out(tmp_path):
    path = database(tmp_path / "r.db")
    with sqlite3.connect(path) as connection:
        connection.execute("DROP VIEW kernels")
    connection.close()
    with pytest.raises(UserError, match=r"r\.db is damaged or of a rocpd schema .*`rocpd convert"):
        parse_report(path)


@pytest.mark.parametrize(("column", "value"), [("start", "12abc"), ("end", -1), ("grid_x", 2**40), ("stack_id", 1.5)])
def test_values_that_cannot_be_true_are_refused(column, value, tmp_path):
    path = database(tmp_path / "r.db")
    with sqlite3.connect(path) as connection:
        connection.execute(f'UPDATE stored_kernels SET "{column}" = ? WHERE rowid = 2', (value,))
    connection.close()
    with pytest.raises(UserError, match=r"r\.db: .*export the report again"):
        parse_report(path)


def test_dispatches_that_the_view_drops_are_counted(tmp_path):
    path = database(tmp_path / "r.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE rocpd_kernel_dispatch (id)")
        connection.executemany("INSERT INTO rocpd_kernel_dispatch VALUES (?)", [(1,), (2,), (3,)])
    connection.close()
    said = [w for w in parse_report(path).meta["warnings"] if "rocpd_kernel_dispatch" in w]
    assert said[0].startswith("1 rows of rocpd_kernel_dispatch")


def test_database_without_views_is_joined_from_its_tables(tmp_path):
    """Kernels that name no thread stay, and each process has ids of its own."""
    path = without_views(tmp_path / "r.db")
    assert format_of(path) == "rocprofv3"
    found = parse_report(path)
    table = found.table
    assert table["name"].tolist() == ["gemm", "gemm", "memcpy host to device", "memcpy host to device"]
    assert (table["process"].nunique(), found.meta["gpu"]["sm_count"]) == (2, 304)
    first = table.iloc[0]
    assert (first["grid_blocks"], first["registers_per_thread"], first["smem_bytes"], first["stream"]) == (
        32,
        52,
        2048,
        2,
    )
    assert table["range_id"].notna().tolist() == [True, False, False, False], "only one launch lies in a range"
    run = runs.import_report(path, "decode", root=tmp_path / "profiles")
    assert paths(run.launches())[0] == "mlp"
