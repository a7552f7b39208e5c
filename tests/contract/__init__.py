"""What every method, target and engine must do; a member joins by its line in `METHODS`, `ENGINES` or `TARGETS`."""
