# SPDX-License-Identifier: Apache-2.0
"""The errors that users see."""

REFUSED = 2  # exit code of a process that has said why in a sentence


class UserError(Exception):
    """One clear sentence that says what is wrong and what to do; the command line prints it and exits with 2."""


class RefusedError(UserError):
    """A child process has said such a sentence, on the same terminal: the command line only exits with 2."""


def of_child(code: int, sentence: str) -> UserError:
    """Return the error for a child process that ended with ``code``; one that refused has said a better sentence."""
    return (RefusedError if code == REFUSED else UserError)(sentence)
