"""Tunings as runs, and their figures, tables and sentences."""
