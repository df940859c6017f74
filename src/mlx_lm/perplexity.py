"""`python -m mlx_lm.perplexity` is the command."""

from .cli.perplexity import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
