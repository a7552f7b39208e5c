"""matfn: matrix functions by matrix products, and the optimizers built on them."""
