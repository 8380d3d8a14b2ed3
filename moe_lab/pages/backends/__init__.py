# SPDX-License-Identifier: Apache-2.0
"""Which backend takes which format, activation and input, where it was tried, and why not."""
