# SPDX-License-Identifier: Apache-2.0
"""What both halves share: the problem, range names, the schema of launches, plugins and options; imports no torch."""
