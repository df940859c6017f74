"""`python -m mlx_lm.cache_prompt` is the command."""

from .cli.cache_prompt import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
