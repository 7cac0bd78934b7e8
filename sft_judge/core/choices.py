"""Allowed values of settings, shared by the command line and the code; this module imports nothing heavy."""

ENGINES = ("transformers", "vllm")  # the first is the reference engine
DTYPES = ("auto", "float32", "bfloat16", "float16")
SWAPS = ("both", "none")  # orders in which a judge is shown a battle
IMPORT_FORMATS = ("lmsys", "wsdm", "battles", "preference", "rewardbench", "rated", "arena", "judgebench")
BITS_OF_SCHEME = {"W4A16": 4, "W8A16": 8, "FP8_STATIC": 8, "NF4": 4, "INT8": 8}  # bits per weight
BITSANDBYTES_SCHEMES = ("NF4", "INT8")  # without calibration data, for comparison; the other schemes are auto-round's
QUANTIZED_FORMATS = ("auto_round", "auto_gptq")  # file formats
UNREAD_RULES = ("wrong", "skip")  # treatment of an answer that could not be read
DISAGREE_RULES = ("half", "tie", "wrong")  # treatment of two orders with different verdicts
BENCHMARKS = ("rewardbench", "judgebench", "autoj", "pandalm", "llmbar")
LOG_LOSS_TOLERANCE = 0.005  # nats; maximum increase of the log loss by another form of a judge
LANGUAGE_RULES = ("fill", "detect", "stated")  # detect missing languages, all languages, or none
