"""Pages: self-contained HTML with tables and figures, drawn without any other package."""
