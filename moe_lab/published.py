"""Figures that others published, as data with their source: never ours, and marked so wherever they are shown."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Source:
    """Where published figures come from, and why they may not equal ours.

    Attributes:
        label: short name for a table head or a bar, such as ``1x L40``.
        setup: GPU, software, model and precision of the measurement.
        caveat: what may and may not be compared.
        model: our preset of the model.
    """

    label: str
    setup: str
    caveat: str
    model: str


L40 = Source(
    label="L40, published",
    setup="1x NVIDIA L40, SGLang 0.5.7, Qwen3-30B-A3B-FP8, batch 16, prefill of 2048 tokens each",
    caveat="another GPU, precision and implementation, so compare shares, not times",
    model="qwen3-30b-a3b",
)

# Milliseconds of GPU time of one decoder layer.
_L40_LAYER_MS: dict[str, dict[str, float]] = {
    "prefill": {"layers.0": 27.038, "self_attn": 11.550, "mlp": 14.313, "w13": 5.887, "w2": 3.408},
    "decode": {"layers.0": 0.427, "self_attn": 0.175, "mlp": 0.251, "w13": 0.163, "w2": 0.068},
}


def layer_table() -> pd.DataFrame:
    """Return the published time of one decoder layer on an L40, one row a phase and range.

    Returns:
        Columns ``phase``, ``name`` (range: layers.0, self_attn, mlp, w13, w2), ``time_ms``, ``pct_of_layer``,
        ``published`` (always True) and ``source``.
    """
    rows = [
        {"phase": phase, "name": name, "time_ms": ms, "pct_of_layer": 100 * ms / times["layers.0"]}
        for phase, times in _L40_LAYER_MS.items()
        for name, ms in times.items()
    ]
    return pd.DataFrame(rows).assign(published=True, source=f"{L40.label}: {L40.setup}")


def stage_shares() -> pd.DataFrame:
    """Return ``layer_table`` split so that the parts add up to the layer.

    Returns:
        Columns ``phase``, ``stage`` (self_attn, w13, w2, ``rest of mlp``, ``rest of layer``), ``time_ms``,
        ``pct_of_layer``, ``published``.
    """
    rows = []
    for phase, ms in _L40_LAYER_MS.items():
        parts = {
            "self_attn": ms["self_attn"],
            "w13": ms["w13"],
            "w2": ms["w2"],
            "rest of mlp": ms["mlp"] - ms["w13"] - ms["w2"],
            "rest of layer": ms["layers.0"] - ms["self_attn"] - ms["mlp"],
        }
        rows += [
            {"phase": phase, "stage": stage, "time_ms": t, "pct_of_layer": 100 * t / ms["layers.0"]}
            for stage, t in parts.items()
        ]
    return pd.DataFrame(rows).assign(published=True)
