"""The one exception of training that a user can cause and fix; the command line shows it without a traceback."""


class TrainError(Exception):
    """A mistake in a recipe, a path or an option. The message says what was given, what was wanted, what to do."""
