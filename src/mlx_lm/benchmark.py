"""`python -m mlx_lm.benchmark` is the command."""

from .cli.benchmark import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
