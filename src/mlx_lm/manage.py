"""`python -m mlx_lm.manage` is the command."""

from .cli.manage import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
