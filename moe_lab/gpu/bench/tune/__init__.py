# SPDX-License-Identifier: Apache-2.0
"""``moe-lab tune``: find the best tiles for a backend's GEMMs at several numbers of tokens, within a time budget."""
