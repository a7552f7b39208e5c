"""Commands: they only parse, call the lab and print."""
