"""`mlx_lm.convert`: writes a model in MLX's layout, quantized, dequantized or cast."""

import argparse
import sys

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlx_lm.convert", description="Convert a model to MLX format.")
    source = "folder, GGUF file, Hugging Face id or packaged name"
    parser.add_argument("--hf-path", "--model", required=True, help=source)
    parser.add_argument("--mlx-path", default="mlx_model", help="new folder to write (default: %(default)s)")
    parser.add_argument("-q", "--quantize", action="store_true", help="quantize the weights")
    parser.add_argument("--q-group-size", type=int, help="weights per scale (affine: 32, 64 or 128; default 64)")
    parser.add_argument("--q-bits", type=int, help="bits of a weight (affine: 2, 3, 4, 5, 6 or 8; default 4)")
    parser.add_argument("--q-mode", default="affine", choices=["affine", "mxfp4", "nvfp4", "mxfp8"])
    parser.add_argument(
        "--quant-predicate",
        choices=["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"],
        help="recipe with more bits where errors hurt most",
    )
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], help="default: the config's")
    parser.add_argument("-d", "--dequantize", action="store_true", help="write dense weights of a quantized model")
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face repository")
    parser.add_argument("--upload-repo", help="Hugging Face id to upload the result to")
    parser.add_argument("--trust-remote-code", action="store_true", help="let a tokenizer run its own Python code")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    args = _parser().parse_args(argv)
    from ..errors import MLXLMError
    from ..quant import convert

    try:
        convert(**vars(args), progress=lambda line: print(line, file=sys.stderr, flush=True))
    except MLXLMError as error:
        print(f"mlx_lm.convert: {error}", file=sys.stderr)
        return 1
    return 0
