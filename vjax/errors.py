"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input or a bad environment, said in one sentence that names the thing and the likely fix.

    Entry points print it as `error: ...` and exit with code 2; anything else is a bug and keeps its
    traceback.
    """
