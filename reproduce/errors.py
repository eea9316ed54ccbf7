"""Errors that a user can fix."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix; the message names the cause and the fix."""


class Diverged(UserError):
    """Training produced a number that is not finite, or a network that embeds images as zeros."""
