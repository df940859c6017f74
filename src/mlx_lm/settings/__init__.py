"""Settings from the command line, the environment, a .env file and a TOML file, by one table.

Contract: a frozen dataclass whose fields are made with `setting(...)` is the table: it gives the command's options, the
names in the environment and in the TOML file, the ranges, and the documentation. What is nearest to the user wins:
command line, environment, .env, TOML, default. A wrong value is a ConfigError that names the setting and its source.
This package does not know what any setting means. Imports no MLX.
"""

from .read import Settings, read_env_file, read_settings
from .table import Setting, add_arguments, setting, settings_of, settings_table
from .values import parse_bytes

__all__ = [
    "Setting",
    "Settings",
    "add_arguments",
    "parse_bytes",
    "read_env_file",
    "read_settings",
    "setting",
    "settings_of",
    "settings_table",
]
