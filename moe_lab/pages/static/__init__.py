# SPDX-License-Identifier: Apache-2.0
"""What compiled code says: the page, findings that ``moe-lab inspect`` prints too, and tables for docs/static.md."""
