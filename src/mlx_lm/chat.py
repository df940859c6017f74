"""`python -m mlx_lm.chat` is the command."""

from .cli.chat import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
