"""What a user can put right: shown as a message, with exit code 2."""


class UserError(Exception):
    """Says what is wrong and what to do about it."""
