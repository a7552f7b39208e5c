"""Training and comparing optimizers: recipes, data, a model, the loop, checkpoints and reports."""


class TrainError(Exception):
    """A mistake in a recipe, a path or an option; the command line shows the message without a traceback.

    Attributes:
        status: The exit status of the command.
    """

    status = 2


class Stopped(TrainError):
    """A run was asked to stop, between two steps, and has written its checkpoint; the message says how to go on."""

    status = 130  # Ctrl-C: 128 + 2; another signal: 128 + its number, as in shells
