"""One file per command. Results go to stdout, everything else to stderr; arguments are read before MLX is imported."""
