"""Import of bitsandbytes, an optional dependency, and the settings that a base was quantised with."""

from transformers import BitsAndBytesConfig

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError


def bitsandbytes():
    """Import bitsandbytes and return the module. Raise `InputError` if it is not installed."""
    try:
        import bitsandbytes
    except ModuleNotFoundError as error:
        raise InputError(f"bitsandbytes is not installed: {install_command('qlora')}") from error
    return bitsandbytes


def settings_of(recorded: dict) -> BitsAndBytesConfig:
    """Return the quantisation config of a base from what training recorded in judge.json."""
    bitsandbytes()
    return BitsAndBytesConfig(**recorded["quantization_config"])
