"""The command line. What a command needs beyond click is imported when it runs: it must start fast.

Every failure is one line on stderr with the next step, and an exit status: 1 what was asked could
not be done, 2 a setting, file or argument is wrong, 130 interrupted. With ``--json`` the same error
is on stdout in the one error shape.
"""
