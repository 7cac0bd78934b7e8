"""Steps in order, sweeps and dry runs."""
