"""
Where DeepSpeed's kernels are compiled at its first start, and that a kill in the midst of it does not hang the next.

`torch.utils.cpp_extension` guards a build by a file named `lock`, and whoever finds one waits for it to go: silently,
and for ever where its process was killed.
"""

import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import psutil


def prepare_builds() -> None:
    """
    Give kernels a build folder of this machine and environment alone, where a lock that no process holds is taken
    away, and the ninja of this environment, which PATH lacks where it is not activated.

    A TORCH_EXTENSIONS_DIR that is set stays as it is: other machines may build there, whose processes are not seen.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if "TORCH_EXTENSIONS_DIR" in os.environ:
        return
    folder = build_folder()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    for lock in folder.glob("*/lock"):
        if not _is_held(lock):
            time.sleep(1)  # a holder closes it just before it removes it
            if not _is_held(lock):
                lock.unlink(missing_ok=True)


def build_folder() -> Path:
    """Under torch's own, one for each machine and environment: what another built would be built again, or fail."""
    from torch.utils.cpp_extension import get_default_build_root

    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return Path(get_default_build_root()) / f"{platform.node()}-{environment}"


def _is_held(file: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if any(opened.path == str(file) for opened in process.open_files()):
                return True
        except psutil.Error:  # it is gone, or another user's
            continue
    return False
