"""Figures, tables and sentences of the experts benchmark."""
