# SPDX-License-Identifier: Apache-2.0
"""Any two runs side by side."""
