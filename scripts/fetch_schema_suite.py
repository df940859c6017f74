"""Fetches what tests/grammar reads beside the repository: the official JSON-Schema-Test-Suite and Lark's grammars.

Both come in source packages of the package index (jsonschema and lark), through pip. They go to the folder that
MLX_LM_TEST_DATA names, else ~/.cache/mlx_lm/test-data.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = ("jsonschema==4.26.0", "lark==1.3.1")


def main() -> int:
    target = Path(os.environ.get("MLX_LM_TEST_DATA", Path.home() / ".cache" / "mlx_lm" / "test-data"))
    target.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if (target / package.replace("==", "-")).is_dir():
            continue
        with tempfile.TemporaryDirectory() as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*pip, "--dest", folder, package], check=True)
            for archive in Path(folder).glob("*.tar.gz"):
                with tarfile.open(archive) as opened:
                    opened.extractall(target, filter="data")
        print(f"{package} is in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
