"""The tournament: optimizers compared by loss, by rules that were fixed before the first run (docs/tournament.md)."""
