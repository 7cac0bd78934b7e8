"""bitsandbytes, an extra, and the settings a base was quantised with."""

from transformers import BitsAndBytesConfig

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError


def bitsandbytes():
    """The library, which is an extra."""
    try:
        import bitsandbytes
    except ModuleNotFoundError as error:
        raise InputError(f"bitsandbytes is not installed: {install_command('qlora')}") from error
    return bitsandbytes


def settings_of(recorded: dict) -> BitsAndBytesConfig:
    """How a base was loaded, of what training recorded in judge.json."""
    bitsandbytes()
    return BitsAndBytesConfig(**recorded["quantization_config"])
