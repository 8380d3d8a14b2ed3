"""moe_lab: profile fused Mixture-of-Experts layers and say where their time goes."""

__version__ = "0.1.0"
