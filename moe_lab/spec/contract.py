"""What a plugin's ``INFO`` may say: for each kind, key -> type and meaning; a ``!`` after a key: it must be there."""

from typing import Any

from moe_lab.spec import plugins
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
        "weight_block": (tuple, "rows and columns that share a scale"),
        "activation_group": (int, "features that share a scale"),
        "scale_bytes": (int, "bytes of a scale"),
        "activation_roundoff": (float, "relative error of rounding an activation"),
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
    "cli": {},
}


def check(kind: str, name: str) -> dict[str, Any]:
    """Return a plugin's INFO.

    Raises:
        UserError: it has a key that nothing reads, one of another type, or lacks one.
    """
    said, keys = plugins.info(kind, name), {**_ANY, **KEYS[kind]}
    known = {key.rstrip("!"): of for key, (of, _) in keys.items()}
    lacking = [key[:-1] for key in keys if key.endswith("!") and key[:-1] not in said]
    unknown = [key for key in said if key not in known]
    wrong = [key for key, of in known.items() if key in said and not isinstance(said[key], of)]
    if lacking or unknown or wrong:
        why = f"lacks {', '.join(lacking)}" if lacking else f"has no use for {', '.join(unknown)}" if unknown else ""
        why = why or f"needs {wrong[0]} to be a {known[wrong[0]].__name__}"
        raise UserError(f"INFO of the {kind} plugin '{name}' {why}; the keys are in moe_lab/spec/contract.py.")
    return said
