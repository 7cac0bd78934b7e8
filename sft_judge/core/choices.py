"""The values that settings may take, for the command line, which imports nothing heavy, and for the code behind it."""

ENGINES = ("transformers", "vllm")  # the first is the reference
DTYPES = ("auto", "float32", "bfloat16", "float16")
SWAPS = ("both", "none")  # the orders that a judge is shown a battle in
IMPORT_FORMATS = ("lmsys", "wsdm", "battles", "preference", "rewardbench", "rated", "arena", "judgebench")
BITS_OF_SCHEME = {"W4A16": 4, "W8A16": 8, "FP8_STATIC": 8, "NF4": 4, "INT8": 8}  # of a weight
BITSANDBYTES_SCHEMES = ("NF4", "INT8")  # without calibration, to compare with; the others are auto-round's
QUANTIZED_FORMATS = ("auto_round", "auto_gptq")  # of the files
UNREAD_RULES = ("wrong", "skip")  # what an answer counts as that could not be read
DISAGREE_RULES = ("half", "tie", "wrong")  # what two orders with two verdicts count as
BENCHMARKS = ("rewardbench", "judgebench", "autoj", "pandalm", "llmbar")
LOG_LOSS_TOLERANCE = 0.005  # nats: what another form of a judge may cost
LANGUAGE_RULES = ("fill", "detect", "stated")  # detect where none is stated, of every prompt, or of none
