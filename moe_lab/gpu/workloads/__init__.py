# SPDX-License-Identifier: Apache-2.0
"""What gets profiled: one decoder layer, a model of transformers, the experts part, align algorithms."""
