"""Training and comparing optimizers: recipes, data, a model, the loop, checkpoints and reports."""


class TrainError(Exception):
    """A mistake in a recipe, a path or an option; the command line shows the message without a traceback."""
