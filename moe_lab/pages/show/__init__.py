# SPDX-License-Identifier: Apache-2.0
"""What the pages share: tables, figures, findings, notes."""
