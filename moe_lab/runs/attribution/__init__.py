# SPDX-License-Identifier: Apache-2.0
"""From events to launches: which range and stage each kernel belongs to."""
