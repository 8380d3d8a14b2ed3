"""Figures, tables and sentences of AMD captures."""
