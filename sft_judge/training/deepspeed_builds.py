"""
Choose the build folder of DeepSpeed's kernels, and remove a stale lock so that a killed build does not hang the next.

`torch.utils.cpp_extension` guards a build by a file named `lock`. A process that finds the file waits until it is
removed, silently, and for ever if the process that created it was killed.
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
    Set the folder in which kernels are compiled, remove stale locks there, and put this environment's ninja on PATH.

    The folder belongs to this machine and environment alone, so a lock that no process holds is stale. PATH lacks
    ninja if the environment is not activated. If TORCH_EXTENSIONS_DIR is set, nothing is changed: other machines,
    whose processes cannot be seen from here, may build there.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if "TORCH_EXTENSIONS_DIR" in os.environ:
        return
    folder = build_folder()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    for lock in folder.glob("*/lock"):
        if not _is_held(lock):
            time.sleep(1)  # the holder closes the file shortly before it removes it
            if not _is_held(lock):
                lock.unlink(missing_ok=True)


def build_folder() -> Path:
    """
    Return a folder under torch's own, one for each machine and environment: kernels built elsewhere may not load.
    """
    from torch.utils.cpp_extension import get_default_build_root

    environment = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    return Path(get_default_build_root()) / f"{platform.node()}-{environment}"


def _is_held(file: Path) -> bool:
    for process in psutil.process_iter():
        try:
            if any(opened.path == str(file) for opened in process.open_files()):
                return True
        except psutil.Error:  # the process has ended, or belongs to another user
            continue
    return False
