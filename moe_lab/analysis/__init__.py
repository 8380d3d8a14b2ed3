# SPDX-License-Identifier: Apache-2.0
"""From tables to tables: nothing here draws, and nothing reads files."""
