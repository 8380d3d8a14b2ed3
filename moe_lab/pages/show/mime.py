"""MIME types of what notebooks store in their outputs for the report to read."""

PLOTLY = "application/vnd.plotly.v1+json"
HEADLINE = "application/vnd.moe_lab.headline+json"  # {"headline": sentence, "findings": [sentence, ...]}
PROVENANCE = "application/vnd.moe_lab.provenance+json"  # [{"phase", "run", "gpu", "date"}, ...]
