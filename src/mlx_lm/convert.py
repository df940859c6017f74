"""Where mlx-lm's users import conversion from; `python -m mlx_lm.convert` is the command."""

if __name__ == "__main__":  # first, so that the command's help does not wait for MLX
    from mlx_lm.cli.convert import main

    raise SystemExit(main())

from .quant import convert

__all__ = ["convert"]
