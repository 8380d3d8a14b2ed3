# SPDX-License-Identifier: Apache-2.0
"""The one error that users see."""


class UserError(Exception):
    """One clear sentence that says what is wrong and what to do; the command line prints it and exits with 2."""
