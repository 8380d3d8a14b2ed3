"""Figures, tables and sentences of a tuning."""
