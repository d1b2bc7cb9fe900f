"""Tools for before and after training; the core does not import them."""
