# SPDX-License-Identifier: Apache-2.0
"""Where outside data enters and leaves: sizes, types, characters, places, processes and signals."""
