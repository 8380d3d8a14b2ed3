# SPDX-License-Identifier: Apache-2.0
"""A kernel of one's own as an experts backend of moe_lab."""
