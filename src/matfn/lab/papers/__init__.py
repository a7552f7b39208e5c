"""Papers: their tables made anew beside the published numbers."""
