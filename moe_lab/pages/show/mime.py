"""MIME types of what notebooks store in their outputs for the report."""

PLOTLY = "application/vnd.plotly.v1+json"
# {"headline": sentence, "findings": [sentence, ...], "found": [{"about", "text", "severity", "rows"}, ...]}
HEADLINE = "application/vnd.moe_lab.headline+json"
PROVENANCE = "application/vnd.moe_lab.provenance+json"  # [{"phase", "run", "gpu", "date"}, ...]
