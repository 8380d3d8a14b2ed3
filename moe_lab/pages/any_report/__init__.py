# SPDX-License-Identifier: Apache-2.0
"""Any report, whatever is in it."""
