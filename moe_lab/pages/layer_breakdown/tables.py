# SPDX-License-Identifier: Apache-2.0
"""Tables of the layer breakdown: ranges, top kernels, floors of the expert GEMMs, and what was measured."""

import pandas as pd

from moe_lab.analysis import phases as layer
from moe_lab.analysis.phases import Phase
from moe_lab.pages.show.tables import Column, Table, heads
from moe_lab.spec import published


def ranges(phase: Phase) -> Table:
    """Return the layer's ranges with times and shares, next to the published ones."""
    frame = layer.beside_published(phase)
    digits = 3 if phase.layer_ms >= 1 else 4  # microseconds, or tenths of them
    ours = f"{phase.name}, {layer.gpu_name(phase)}"
    columns = [
        *heads("name", label="range", wrap=False),
        *heads("kernel_sum_ms", digits=digits, group=ours),
        *heads("pct_of_layer", group=ours, bar=100.0),
        *heads("kernels", group=ours),
        *heads("gap_ms", digits=digits, group=ours),
    ]
    if frame["published_ms"].notna().any():
        columns.append(Column("published_ms", "time", "ms", 3, published.L40.label, theirs=True))
        columns.append(Column("published_pct", "of layer", "%", 1, published.L40.label, 100.0, theirs=True))
    return Table(frame, columns)


def kernels(frame: pd.DataFrame, caption: str = "") -> Table:
    """Return the top kernels with their launch geometry (``analysis.kernels.top_kernels``)."""
    shown = frame.assign(where=frame["path"].map(lambda p: str(p).rsplit("/", 1)[-1]))
    columns = [
        *heads("name where pct_of_root median_us grid_blocks block_threads registers_per_thread"),
        *heads("launches", unit="whole run"),
    ]
    return Table(shown, columns, caption)


def floors(frame: pd.DataFrame) -> Table:
    """Return the time of the expert GEMMs beside the least work that they could do (``analysis.floors.floors``)."""
    if frame.empty:
        none = "No run here states its problem and the experts it hit."
        return Table(pd.DataFrame({"note": [none]}), heads("note"))
    least, got, roof = "cannot do with less", "so it ran at", "roof of the memory"
    columns = [
        *heads("phase stage time_ms experts_hit"),
        *heads("minimum_gb useful_gflop useful_flop_per_byte", group=least),
        *heads("minimum_tb_per_s", group=got),
        *heads("useful_tflops_per_s", label="compute", group=got),
        *heads("roof_tb_per_s roof", group=roof),
        *heads("pct_of_roof", group=roof, most=100),
    ]
    return Table(frame, columns)
