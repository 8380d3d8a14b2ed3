# SPDX-License-Identifier: Apache-2.0
"""MIME types of what notebooks store in their outputs for the report."""

PLOTLY = "application/vnd.plotly.v1+json"
# {"headline": sentence, "findings": [sentence, ...], "found": [{"about", "text", "severity", "rows"}, ...]}
HEADLINE = "application/vnd.moe_lab.headline+json"
# [{"phase", "run", "gpu", "date", "folder", "files", "command"}, ...]
PROVENANCE = "application/vnd.moe_lab.provenance+json"
NOTHING = "application/vnd.moe_lab.nothing+json"  # true: the output only says that there is nothing to show
