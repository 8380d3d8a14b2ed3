# SPDX-License-Identifier: Apache-2.0
"""Triton device code; each file also has its host launcher and, under the same name, a torch reference."""
