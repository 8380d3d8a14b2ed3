"""Benchmarks: align & sort, the experts part, and the search for tiles."""
