"""What a plugin may give: the keys of its ``INFO``, with type and meaning, and the names in its file.

A ``!`` after a key or a name: it must be there; names with ``|`` between: one of them must.
"""

from types import FunctionType, ModuleType
from typing import Any

from moe_lab.spec.errors import UserError

_ANY: dict[str, tuple[type, str]] = {
    "about!": (str, "one line: what it is"),
    "kind": (str, "of a file from outside the package: which folder it would lie in"),
    "needs": (list, "modules that it imports; peer:NAME for files of another project"),
    "install": (str, "how to get what is missing"),
    "source": (str, "project or paper"),
}
KEYS: dict[str, dict[str, tuple[type, str]]] = {
    "align": {
        "deterministic": (bool, "equal inputs give equal order"),
        "zeroed": (bool, "its scratch memory must be zero before the first call"),
        "most_pairs": (int, "in-block sort capacity: the most pairs that it takes"),
        "steps": (dict, "kernel name, or the start of it -> step that it does"),
    },
    "experts": {
        "hardware!": (str, "GPUs that it runs on"),
        "formats!": (list, "formats that it takes"),
        "cpu_formats": (list, "those that it takes under Triton's interpreter, where that differs"),
        "activations!": (list, "activations that it has"),
        "cuda_graph": (bool, "it can be captured"),
        "peer": (str, "project whose files it reads; it then has at(version)"),
        "tried": (list, "releases that it was tried with"),
        "multiple_of": (int, "K and N must be multiples of it"),
        "align": (str, "align algorithm that it takes, by default"),
        "tile": (bool, "it takes tiles of w13 and w2"),
        "split": (bool, "it can do w13 and w2 as launches of their own"),
        "fp32": (str, "tf32: it multiplies fp32 so"),
    },
    "formats": {
        "dtype!": (str, "type of activations and output"),
        "weight_bits!": (int, "bits of a weight"),
        "activation_bits!": (int, "bits of an activation in a product"),
        "weight_block": (tuple, "rows and columns that share a scale, 0 = all"),
        "activation_block": (tuple, "rows and features that share a scale, 0 = all"),
        "scale_bytes": (int, "bytes of a scale"),
        "activation_roundoff": (float, "relative error of rounding an activation"),
        "product": (str, "what is multiplied, where that is not of the dtype"),
        "engine": (str, "what vLLM and SGLang call it in names of files"),
    },
    "comm": {
        "layout!": (str, "standard or batched"),
        "ranks!": (str, "one or any"),
        "stages!": (list, "stages that it marks"),
    },
    "capture": {
        "called": (str, "name on the command line, where that is not the file's"),
        "of_program": (bool, "the profiled program may bring it"),
    },
    "parse": {
        "report!": (str, "what a run calls its report"),
        "options": (list, "keyword arguments of parse"),
        "folder": (bool, "a report may be a folder"),
    },
    "assembly": {},
    "cli": {},
}


NAMES: dict[str, dict[str, str]] = {
    "align": {"align!": "the algorithm", "scratch": "(numel, E) -> numbers of scratch memory"},
    "experts": {
        "experts|at!": "the layer's experts; or (version) -> the object of a peer's release that has them",
        "prepare": "(w13, w2) -> what is laid out once",
        "block_m": "(problem) -> rows to which an expert's are padded",
        "tiles": "(problem, device, tile) -> tiles of both GEMMs, where INFO says tile",
    },
    "formats": {
        "quantise": "(w) -> numbers with scales",
        "dequantise": "(weights, dtype) -> what they stand for",
        "quantise_activations": "(x) -> numbers with scales",
    },
    "comm": {"dispatch!": "tokens to the ranks of their experts", "combine!": "what they made of them, back"},
    "capture": {
        "Options!": "a dataclass of option fields",
        "available!": "() -> the tool, or why there is none",
        "command!": "the argv, pure",
        "trace!": "(work, tool, workload, options) -> Traced; UserError where it fails or traced nothing",
    },
    "parse": {
        "sniff!": "(path) -> whether it reads it",
        "parse!": "(path) -> Launches",
        "slim!": "(source, target, keep) -> what was left out, and names of machines",
    },
    "assembly": {"sniff!": "(text) -> whether it reads it", "read!": "(text) -> Listing"},
    "cli": {"add!": "(parser): its options, and run", "run": "(arguments): what add set as run"},
}


def check(kind: str, name: str, said: dict[str, Any]) -> None:
    """Refuse an INFO that has a key that nothing reads, one of another type, or lacks one.

    Raises:
        UserError: so it is.
    """
    keys = {**_ANY, **KEYS[kind]}
    known = {key.rstrip("!"): of for key, (of, _) in keys.items()}
    lacking = [key[:-1] for key in keys if key.endswith("!") and key[:-1] not in said]
    unknown = [key for key in said if key not in known]
    wrong = [key for key, of in known.items() if key in said and type(said[key]) is not of]
    if lacking or unknown or wrong:
        why = f"lacks {', '.join(lacking)}" if lacking else f"has no use for {', '.join(unknown)}" if unknown else ""
        why = why or f"needs {wrong[0]} to be a {known[wrong[0]].__name__}"
        raise UserError(f"INFO of the {kind} plugin '{name}' {why}; the keys are in moe_lab/spec/contract.py.")


def check_names(kind: str, name: str, module: ModuleType) -> None:
    """Refuse a file that lacks a name, or has one of them that cannot be called; raises UserError: so it is."""
    for wanted in (key[:-1] for key in NAMES[kind] if key.endswith("!")):
        if not any(hasattr(module, one) for one in wanted.split("|")):
            raise UserError(f"The {kind} plugin '{name}' has no '{wanted}'; see moe_lab/spec/contract.py.")
    for one in callables(kind):
        if not callable(getattr(module, one, callable)):
            raise UserError(f"'{one}' of the {kind} plugin '{name}' cannot be called; see moe_lab/spec/contract.py.")


def callables(kind: str) -> list[str]:
    """Return the names that a plugin of this kind may give."""
    return [one for key in NAMES[kind] for one in key.rstrip("!").split("|")]


def check_unread(kind: str, name: str, module: ModuleType) -> None:
    """Refuse a public function that nothing calls: ``prepared`` for ``prepare`` would be skipped without a word.

    Raises:
        UserError: so it is.
    """
    for one, value in vars(module).items():
        own = isinstance(value, FunctionType) and value.__module__ == module.__name__
        if own and not one.startswith("_") and one not in callables(kind):
            raise UserError(
                f"Nothing calls '{one}' of the {kind} plugin '{name}'; call it _{one} if it is a helper, else see the "
                "names in moe_lab/spec/contract.py."
            )
