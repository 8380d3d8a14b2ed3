# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: align & sort, the experts part, and the search for tiles."""
