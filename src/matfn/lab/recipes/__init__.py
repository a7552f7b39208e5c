"""Recipes: what a TOML file may say, as validated values."""
