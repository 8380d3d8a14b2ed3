# SPDX-License-Identifier: Apache-2.0
"""What notebooks show: one folder per notebook, with its tables, plots and findings."""
