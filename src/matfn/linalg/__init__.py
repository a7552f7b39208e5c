"""Linear algebra: small numerical tools, independent of the iterations."""
