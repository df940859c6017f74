"""`python -m mlx_lm.evaluate` is the command."""

from ..cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
