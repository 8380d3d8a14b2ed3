"""No planted secret, host, person or place survives an import, whatever the format and whatever column it stood in."""

import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncu_builder
import pytest
import sweep_builder
import test_parse_rocpd
import test_parse_rocprofv3
import tuning_builder
import workload_builder
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kineto_builder import H200, KinetoBuilder
from nsys_builder import TABLES, NsysBuilder

from moe_lab.cli import main

HOST, USER = "zeus-17", "adalovelace"
UUID = "8d2a1c7e-0123-4567-89ab-0123456789ab"
PLANTS = (
    *(
        "hf_LEAKabcdefghijklmnop",
        "sk-LEAKabcdefghijklmnopqrst",
        "ghp_LEAKabcdefghijklmnopqrstuvw",
        "AKIALEAKABCDEFGH12",
    ),
    *("HF_TOKEN=LEAKa1", "WANDB_API_KEY='LEAK a2'", '{"api_key": "LEAKa3"}', "password=LEAKa4&x=1"),
    *("Authorization: Bearer LEAK.a5", "os.environ['HF_TOKEN'] = 'LEAKa6'", "https://bob:LEAKa7@example.com/x"),
    *("https://example.com/x?X-Amz-Signature=LEAKa8", "https://example.com/?api_key=LEAKa9&y=1"),
    *(HOST, HOST.upper(), f"{HOST}.lab.example.org", f"rank0@{HOST}:8000", f"http://{HOST}:80/v1", f"x_{HOST}_y"),
    *(f"/home/{USER}/m/w.bin", f"/Users/{USER}", f"C:\\Users\\{USER}\\x", f"~{USER}/x", f"file:///mnt/{USER}/x"),
    *("ada.lovelace@uni.example.ac.uk", "10.11.12.13", "10.11.12.13:8000", "fe80::1234:5678:9abc:def0", "GPU-" + UUID),
    *(f"MIG-{UUID}", "00:1b:44:11:3a:b7"),
)
LOST = ("leak", HOST, USER, "uni.example", "10.11.12.13", "9abc:def0", UUID, "3a:b7")
KEPT = ("fused_moe_kernel", "moe_lab|M=16", "model.layers.0.mlp")


class Planter:
    """Gives names, each with the next of some plants, after a name that matters and between quotes or blanks."""

    def __init__(self, plants: list[str]) -> None:
        self.plants, self.at = plants, 0

    def __call__(self, name: str = "x") -> str:
        """Return the name and the next plant."""
        self.at += 1
        plant = self.plants[self.at % len(self.plants)]
        return (f"{name} {plant}", f"{name} ({plant})", f"{name} '{plant}'", f"{name}, {plant} ")[self.at % 4]


def nsys(folder: Path, plant: Planter) -> Path:
    """Every text column, of tables that nobody reads too."""
    b = NsysBuilder()
    b.row("META_DATA_EXPORT", name="EXPORT_HOST", value=HOST)
    b.row("TARGET_INFO_SYSTEM_ENV", name="Hostname", value=HOST)
    for n in range(len(PLANTS)):
        at = 1000 * n
        b.push(plant(KEPT[1]), at, at + 900, registered=bool(n % 2), domain=n)
        b.event(75, plant("domain"), at, None, domain=n)
        b.launch(at + 10, n + 1, gpu=(at + 100, at + 200), name=plant(KEPT[0]))
    for table in ("TARGET_INFO_SYSTEM_ENV", "META_DATA_EXPORT", "META_DATA_CAPTURE"):
        for name in ("NvDriverVersion", "EXPORT_PRODUCT_VERSION", "X:CUDA_GRAPH_TRACE_OPTIONS:MODE", "EnvVars"):
            b.row(table, name=name, value=plant("580.1"))
    b.row("TARGET_INFO_GPU", id=0, name=plant("NVIDIA H200"), smCount=132, uuid=UUID, busLocation=plant())
    for table, columns in {
        "PROCESSES": ("name",),
        "ThreadNames": ("nameId",),
        "ProcessStreams": ("contentId",),
    }.items():
        assert set(columns) <= set(TABLES[table])
        b.row(table, **{c: b.string(plant()) if c.endswith("Id") else plant() for c in columns})
    return b.write(folder / f"{HOST}.sqlite")


def kineto(folder: Path, plant: Planter, end: str = ".json") -> Path:
    info = {"backend": "nccl", "hostname": HOST, "user": USER, "x": plant()}
    gpu = {**H200, "name": plant("NVIDIA H200"), "uuid": UUID, "serial": plant()}
    b = KinetoBuilder(distributedInfo=info, deviceProperties=[gpu], cuda_driver_version=plant(), env={"T": plant()})
    b.tail = {"traceName": plant(), "with_flops": plant()}
    for n in range(len(PLANTS)):
        at = 1000 * n
        b.push(plant(KEPT[1]), at, at + 900)
        b.module(plant(KEPT[2]), at, at + 899)
        b.operator(plant("aten::mm"), at, at + 5, n)
        b.launch(at + 10, n + 1, gpu=(at + 100, at + 200), name=plant(KEPT[0]))
        for event in b.events[-6:]:
            event.setdefault("args", {})["path"] = plant()
    b.metadata()
    return b.write(folder / f"{HOST}{end}")


def ncu(folder: Path, plant: Planter, page: str = "raw") -> Path:
    units = {"gpu__time_duration.sum": "ns", "device__attribute_display_name": ""}
    kernels: list[dict[str, Any]] = [
        {
            "name": plant(KEPT[0]),
            "grid": "(8, 1, 1)",
            "block": "(256, 1, 1)",
            "stack": ncu_builder.stack(_without_signs(plant(KEPT[1])), domain=_without_signs(plant("domain"))),
            "values": {"gpu__time_duration.sum": "1,000", "device__attribute_display_name": plant("NVIDIA H200")},
            "rows": [("GPU Speed Of Light Throughput", "Duration", "ns", "1,000", "", "", "", "", "")],
            "rule": plant(),
        }
        for _ in PLANTS
    ]
    text = ncu_builder.raw(kernels, units, host=HOST) if page == "raw" else ncu_builder.details(kernels)
    path = folder / f"{HOST}.csv"
    path.write_text(ncu_builder.NOISE_BEFORE + text.replace("127.0.0.1", HOST))
    return path


def _without_signs(name: str) -> str:
    """Return a name that can stand in a list of ranges, where colons and quotes part fields; else its first word."""
    return name.split(" ")[0] if set(':"') & set(name) else name


def rocprofv3(folder: Path, plant: Planter) -> Path:
    quoted: Callable[[str], str] = lambda name: plant(name).replace('"', '""')  # noqa: E731
    source = test_parse_rocprofv3
    numbers = range(len(PLANTS))
    source.write(
        folder / "out" / HOST,
        kernels=[source.kernel(quoted(KEPT[0]), 3 * n + 2, 9000 + 10 * n, 9005 + 10 * n) for n in numbers],
        markers=[source.marker(quoted(KEPT[1]), 3 * n + 1, 100 * n + 1, 100 * n + 90) for n in numbers],
        calls=[source.call("hipLaunchKernel", 3 * n + 2, 100 * n + 5, 100 * n + 6) for n in numbers],
    )
    agents = folder / "out" / HOST / "717_agent_info.csv"
    agents.write_text(agents.read_text().replace("AMD Instinct MI300X", quoted("AMD Instinct MI300X")))
    (folder / "out" / HOST / "717_config.json").write_text(json.dumps({"env": plant()}))
    return folder / "out"


def rocprofv3_names(folder: Path, plant: Planter) -> Path:
    """The host stands in the names of the files only: -o %hostname%_%pid%."""
    inner = rocprofv3(folder, plant) / HOST
    for file in sorted(inner.iterdir()):
        file.rename(folder / "out" / f"{HOST}_4242_{file.name.partition('_')[2]}")
    inner.rmdir()
    return folder / "out"


def rocpd(folder: Path, plant: Planter) -> Path:
    source = test_parse_rocpd
    text: Callable[[str], str] = lambda name: json.dumps(plant(name))[1:-1]  # noqa: E731
    regions = []
    for n in range(len(PLANTS)):
        regions.append(source.marked(text(KEPT[1]), 2 * n + 1, 100 * n + 1, 100 * n + 90))
        regions.append(source.called("hipLaunchKernel", 2 * n + 2, 100 * n + 5, 100 * n + 6))
    kernels = [source.kernel(plant(KEPT[0]), 2 * n + 2, 9000 + 10 * n, 9005 + 10 * n) for n in range(len(PLANTS))]
    path = source.database(folder / f"{HOST}_results.db", kernels=kernels, regions=regions)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE stored_rocpd_info_node SET hostname = ?", (HOST,))
        database.execute("UPDATE stored_rocpd_info_agent SET product_name = ?", (plant("AMD Instinct MI300X"),))
    database.close()
    return path


def rocprof_compute(folder: Path, plant: Planter) -> Path:
    source = workload_builder
    folder = folder / HOST
    texts = {name: plant() for name in ("workload_name", "command", "cpu_model", "linux_distro", "version")}
    source.sysinfo(folder, hostname=HOST, **texts, gpu_model=plant("MI300X_A1"), compute_partition=plant("SPX"))
    rows = [source.launch(n, plant(KEPT[0]), 1000 * n + 1, 1000 * n + 500, SQ_WAVES=64) for n in range(len(PLANTS))]
    source.write_csv(folder / "pmc_perf.csv", rows)
    return folder


def bench(folder: Path, plant: Planter, builder: Any = sweep_builder) -> Path:
    lines = builder.rows()[-200:]
    for line in lines:
        line["error"] = plant(KEPT[0]) if line.get("error") else line.get("error")
    for key, n in zip(("note", "user", "hostname", "where"), range(9), strict=False):
        lines[n][key] = {"user": USER, "hostname": HOST}.get(key) or plant()
    lines += [{**lines[-1], "M": 10_000 + n, "tokens": 10_000 + n, "error": plant(KEPT[0])} for n in range(len(PLANTS))]
    info = {"source": plant(), "host": HOST, "login": USER, "token": "LEAKb", "argv": [plant() for _ in PLANTS]}
    versions = {**sweep_builder.header()["versions"], "vllm": plant("0.15.0")}
    changes = {"command": ["python", "--api-key", "LEAKb2", *(plant() for _ in PLANTS)], "versions": versions}
    builder.write(folder / f"{HOST}.jsonl", lines, **changes)
    first, *rest = (folder / f"{HOST}.jsonl").read_text().splitlines(keepends=True)
    said = json.loads(first)
    said["settings"] |= info
    (folder / f"{HOST}.jsonl").write_text("".join([json.dumps(said) + "\n", *rest]))
    return folder / f"{HOST}.jsonl"


FORMATS: dict[str, tuple[Callable[..., Path], tuple[Any, ...], int]] = {
    "nsys": (nsys, (), 2),
    "kineto-json": (kineto, (), 3),
    "kineto-gz": (kineto, (".json.gz",), 3),
    "ncu-raw": (ncu, (), 2),
    "ncu-details": (ncu, ("details",), 2),
    "rocprofv3": (rocprofv3, (), 2),
    "rocprofv3-names": (rocprofv3_names, (), 2),
    "rocpd": (rocpd, (), 2),
    "rocprof-compute": (rocprof_compute, (), 1),
    "bench": (bench, (), 1),
    "tune": (bench, (tuning_builder,), 1),
}


def every_byte(folder: Path) -> str:
    """Return the names and bytes of all files, unpacked, in lower case."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        found.append(path.relative_to(folder).as_posix() + "\n" + data.decode("utf-8", "replace"))
        if data.startswith(b"SQLite"):
            found.append("\n".join(sqlite3.connect(path).iterdump()))
        if path.suffix == ".json":
            found.append(json.dumps(json.loads(data), ensure_ascii=False))
    return "\n".join(found).lower()


def survivors(text: str) -> list[str]:
    """Return where something planted is left, with what stands around it."""
    return [text[max(0, at - 60) : at + 40] for lost in LOST if (at := text.find(lost)) >= 0]


@pytest.mark.parametrize("name", FORMATS)
@settings(
    derandomize=True,
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(plants=st.permutations(PLANTS))
def test_import_leaves_nothing_planted_and_all_names_that_matter(name, plants, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("formats")
    make, more, matter = FORMATS[name]
    report = make(folder, Planter(plants), *more)
    profiles = folder / "profiles"
    assert main(["import", str(report), "--name", "x/y", "--profiles", str(profiles)]) == 0, capsys.readouterr().err
    text = every_byte(profiles)
    assert survivors(text) == []
    assert all(kept.lower() in text for kept in KEPT[:matter])
    assert "secret" in capsys.readouterr().err
    assert main(["runs", "check", "--profiles", str(profiles)]) == 0, capsys.readouterr().out
