"""
Make a base model: a small pretrained model, or a tiny random model of a real family.

--pretrained takes SmolLM2-135M-Instruct or Gemma-3-270M from a Python package, for machines that cannot reach the
Hub. --gguf converts any GGUF file that transformers can read. Both write dequantised weights, which keep the rounding
of the quantised ones. --family makes a random model with a tokenizer trained on the battles' text. --like makes a
random model with the class, chat template and features of another model, as `train --shrink` does. Random models
replace real ones in demos and tests, and have learned nothing. Other pretrained models do not need this command: name
a folder or Hub id in the recipes.
"""

from sft_judge.commands.arguments import add_limit, model_path, positive, seed
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder
from sft_judge.core.resources import find_resource

EXAMPLE = "sft-judge base --pretrained smollm2-135m --output models/smollm2"
FAMILIES = ("qwen2", "gemma2")
PRETRAINED = ("smollm2-135m", "gemma-3-270m")


def add_arguments(parser):
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--pretrained", choices=PRETRAINED, help="small pretrained model from a Python package")
    kind.add_argument("--gguf", type=InputPath, metavar="FILE", help="GGUF file to convert")
    kind.add_argument("--family", choices=FAMILIES, help="family of a random model")
    kind.add_argument(
        "--like", type=model_path, metavar="MODEL", help="make a random model like this one; its config.json is enough"
    )
    parser.add_argument(
        "--battles", nargs="+", type=InputPath, metavar="F", help="battles whose text trains the tokenizer of --family"
    )
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--prompt-template", default="pair", help="prompt template whose text trains the tokenizer too (pair)"
    )
    parser.add_argument(
        "--hidden", type=positive, default=128, help="hidden size; W4A16 needs a multiple of 128 (128)"
    )
    parser.add_argument("--layers", type=positive, default=2, help="number of layers (2)")
    parser.add_argument("--vocab", type=positive, default=2048, help="vocabulary size, control tokens included (2048)")
    parser.add_argument("--positions", type=positive, default=1024, help="longest sequence, in tokens (1024)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the weights (0)")
    add_limit(parser)


def run(args):
    if args.pretrained or args.gguf:
        return _pretrained(args)
    if args.like:
        from sft_judge.pipelines.shrink import make_small_model

        with whole_folder(args.output) as folder:
            print(*make_small_model(str(args.like), folder), f"-> {args.output}", sep="\n")
        return {"like": str(args.like)}
    if not args.battles:
        raise InputError("--family needs text to train its tokenizer on; give --battles F.")
    return _of_family(args)


def _pretrained(args) -> dict:
    from sft_judge.modeling.gguf_files import convert_gguf
    from sft_judge.modeling.pretrained import make_pretrained

    with whole_folder(args.output) as folder:
        lines = make_pretrained(args.pretrained, folder) if args.pretrained else convert_gguf(args.gguf, folder)
    print(*lines, f"-> {args.output}", sep="\n")
    return {"pretrained": args.pretrained or str(args.gguf)}


def _of_family(args) -> dict:
    from sft_judge.data.battles import FIELDS, read_battles
    from sft_judge.modeling.tiny_models import make_base

    frame = find_resource("prompts", args.prompt_template).read_text(encoding="utf-8")
    rows = [row for path in args.battles for row in read_battles(path, args.limit).select(FIELDS).to_pylist()]
    texts = [turn for row in rows for field in FIELDS for turn in row[field]]
    with whole_folder(args.output) as folder:
        parameters, vocabulary = make_base(
            *(folder, args.family, [*texts, *[frame] * 100]),
            hidden=args.hidden,
            layers=args.layers,
            vocab=args.vocab,
            positions=args.positions,
            seed=args.seed,
        )
    print(f"{args.family}: {parameters:,} parameters, {vocabulary:,} tokens, random weights -> {args.output}")
    return {"parameters": parameters, "vocabulary": vocabulary}
