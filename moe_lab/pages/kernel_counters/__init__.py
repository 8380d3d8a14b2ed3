# SPDX-License-Identifier: Apache-2.0
"""The page of notebook 03: hardware counters of the expert GEMMs."""
