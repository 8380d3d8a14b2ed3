"""Figures, tables and sentences of the align & sort benchmark."""
