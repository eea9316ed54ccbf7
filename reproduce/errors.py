"""Errors that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend; the message names the thing and the mend."""


class Diverged(UserError):
    """Training produced a number that is not finite; the message names the step."""
