"""The one exception for mistakes that the user can mend.

The command line prints its message as a single line and leaves with status 2; a traceback would
only hide the sentence that helps.
"""


class UserError(Exception):
    """What was wrong, where, and what to do, in one sentence.

    Raise it for bad input: files, options, configurations, data. A broken invariant of our own code
    is not a `UserError`; let it crash with its traceback.
    """


class ConfigError(UserError, ValueError):
    """A hyperparameter that cannot be: names the field, its value and the remedy."""
