# SPDX-License-Identifier: Apache-2.0
"""Experts on several ranks: time by rank, waiting, exposed communication, skew, and more ranks."""
