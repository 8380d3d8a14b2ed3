"""Pages as ``ncu --csv`` prints them, with their quirks: quoted fields, a line of units, ragged rows, noise around."""

import csv
import io

STACK = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
FREE = "Id:Domain:Start/Stop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"
IDENTITY = ["ID", "Process ID", "Process Name", "Host Name"]
WHERE = ["Kernel Name", "Context", "Stream", "Block Size", "Grid Size", "Device", "CC"]
DETAILS = [
    *("Section Name", "Metric Name", "Metric Unit", "Metric Value", "Rule Name", "Rule Type", "Rule Description"),
    *("Estimated Speedup Type", "Estimated Speedup"),
]
NOISE_BEFORE = (
    "loading weights, 1.2 GB\n==PROF== Connected to process 4711 (/home/ada/venv/bin/python3)\n"
    '==PROF== Profiling "fused_moe" - 0: 0%....50%....100% - 9 passes\n"a line of the program, with a quote\n'
)
NOISE_AFTER = "==PROF== Disconnected from process 4711\n==WARNING== something at the end\n"
ROOT = "moe_lab|model=m|phase=decode|M=16|backend=fused_moe"


def entry(name, domain="moe_lab"):
    return f'"{domain}:{name}:none:none:none:none:none:none"'


def stack(*names, thread=1, domain="moe_lab"):
    return f"{thread}  " + "  ".join(entry(n, domain) for n in names)


def _line(cells):
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _where(kernel):
    return [kernel["name"], 1, kernel.get("stream", 7), kernel["block"], kernel["grid"], kernel.get("device", 0), "9.0"]


def raw(kernels, units, *, nvtx=True, host="gpu-box-17"):
    """Return a raw page.

    Args:
        kernels: name, grid, block ("(256, 1, 1)"), optional stack, free, stream, process, values (metric -> text).
        units: metric -> unit, in the order of the columns.
    """
    extra = [STACK, FREE] if nvtx else []
    text = _line([*IDENTITY, *extra, *WHERE, *units]) + _line([""] * (11 + len(extra)) + list(units.values()))
    for number, kernel in enumerate(kernels):
        ranges = [kernel.get("stack", ""), kernel.get("free", "")] if nvtx else []
        identity = [number, kernel.get("process", 4711), "python3.12", host]
        values = [kernel.get("values", {}).get(name, "") for name in units]
        text += _line([*identity, *ranges, *_where(kernel), *values])
    return text


def details(kernels):
    """Return a details page; kernels as for ``raw`` with rows: (section, metric, unit, value), and rule: text."""
    text = _line([*IDENTITY, STACK, FREE, *WHERE, *DETAILS])
    for number, kernel in enumerate(kernels):
        front = [number, 4711, "python3.12", "127.0.0.1", kernel.get("stack", ""), "", *_where(kernel)]
        for row in kernel["rows"]:
            text += _line([*front, *row])
        text += _line([*front, "SpeedOfLight", "", "", "", "Bottleneck", "OPT", kernel.get("rule", ""), "global", "3"])
    return text
