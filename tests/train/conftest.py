"""The small recipe and its corpus, one thread."""

from small_recipe import _one_thread, folder, recipe, table, watcher  # noqa: F401 fixtures are found by their names
