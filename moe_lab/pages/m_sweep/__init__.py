# SPDX-License-Identifier: Apache-2.0
"""Figures, tables and sentences of the experts benchmark."""
