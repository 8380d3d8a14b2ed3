# SPDX-License-Identifier: Apache-2.0
"""The page of notebook 01: where the time of one layer goes."""
