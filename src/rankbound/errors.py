"""The one exception that speaks to the user.

Everything a user can get wrong (a path, a setting, a damaged file) raises `InputError` with one line:
what is wrong, where, and what to do. The command line prints that line and exits with status 2; every
other exception is a defect of ours and keeps its traceback. It derives from ValueError so that the
heads and metrics, used alone, raise what a Python programmer expects.
"""


class InputError(ValueError):
    """A wrong input or setting; the message is one line that names it and the mend."""
