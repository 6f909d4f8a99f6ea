"""Find zig, whose package ziglang compiles C and C++ for every system on any machine."""

import importlib.util
import os
from pathlib import Path

from exporter.util.native_files import CHECKOUT, in_checkout

ZIG_VERSION = "0.17.1"
# Where zig keeps what it has compiled of the systems' libraries: in a checkout beside its other downloads.
ZIG_CACHE = "ZIG_GLOBAL_CACHE_DIR"
_CACHE = CHECKOUT / ".deps" / "zig"


def find_zig(who: str) -> tuple[str, ...]:
    """Find zig of the package ziglang, which compiles for every target on any machine.

    Raises ValueError that names `who` needs it and how to install it.
    """
    spec = importlib.util.find_spec("ziglang")
    for folder in spec.submodule_search_locations or () if spec else ():
        if (zig := Path(folder, "zig")).is_file():
            if ZIG_CACHE in os.environ or not in_checkout():
                return (str(zig),)
            return ("env", f"{ZIG_CACHE}={_CACHE}", str(zig))
    raise ValueError(f"{who} needs zig, which is not here; install it: pip install ziglang=={ZIG_VERSION}")
