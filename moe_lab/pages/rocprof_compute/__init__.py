# SPDX-License-Identifier: Apache-2.0
"""The page of notebook 05: counters of AMD GPUs."""
