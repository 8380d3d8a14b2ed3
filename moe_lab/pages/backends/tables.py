# SPDX-License-Identifier: Apache-2.0
"""Tables of the matrix of backends: a DataFrame in, HTML out."""

import pandas as pd

from moe_lab.pages.show.tables import Table, heads


def cells(frame: pd.DataFrame) -> Table:
    """Return one row per backend and format (``analysis.support.matrix``)."""
    ran = "in stored runs"
    columns = [
        *heads("backend format"),
        *heads("tried_on tried_M releases error_worst rows_failed why_failed", group=ran),
        *heads("here hardware inputs on_input adds_biases activations", group="stated"),
    ]
    return Table(frame, columns)


def elsewhere(frame: pd.DataFrame) -> Table:
    """Return the kernels that engines list (``analysis.support.elsewhere``)."""
    listed = heads("formats activations inputs on_input hardware", group="as the engine lists it")
    columns = [*heads("engine kernel backend"), *heads("tried_on releases", group="in stored runs")]
    return Table(frame, [*columns, *heads("why_not needed"), *listed])
