"""Linear algebra: small numerical tools that know nothing of the iterations."""
