# SPDX-License-Identifier: Apache-2.0
"""What a plugin may define: the keys of its ``INFO``, with type and meaning, and the names in its file.

``!`` after a key or a name means that it is required; of names with ``|`` between, one is.
"""

from types import FunctionType, ModuleType
from typing import Any

from moe_lab.spec.errors import UserError

_ANY: dict[str, tuple[type, str]] = {
    "about!": (str, "one line: what it is"),
    # Inside the package the folder says the kind.
    "kind": (str, "required of a file from outside the package: which folder it would be in"),
    # Read without importing the plugin, so that `backends` can list one whose library is missing.
    "needs": (list, "modules that it imports; peer:NAME for files of another project, NAME=VALUE for a setting"),
    "install": (str, "how to get what is missing"),
    "source": (str, "project or paper"),
}
_SHOWS = (dict, "rows of the table in docs/commands.md: how it is called -> what it answers")
KEYS: dict[str, dict[str, tuple[type, str]]] = {
    "align": {
        "deterministic": (bool, "equal inputs give equal order"),
        "drops": (bool, "takes ids of -1, pairs that appear nowhere; default: yes"),
        "zeroed": (bool, "its scratch memory must be zero before the first call"),
        "most_pairs": (int, "in-block sort capacity: the most pairs that it takes"),
        "steps": (dict, "kernel name, or its beginning -> the step that it does"),
    },
    "experts": {
        "hardware!": (str, "GPUs that it runs on"),
        "formats!": (list, "formats that it takes"),
        "cpu_formats": (list, "formats that it takes under Triton's interpreter, if different"),
        "activations!": (list, "activations that it supports"),
        "inputs": (list, "standard (rows of tokens) and batched (rows by expert, with counts); default: standard"),
        "biases": (bool, "whether it adds biases to both products"),
        "unbiased": (list, "formats in which it adds none all the same"),
        "cuda_graph": (bool, "whether a CUDA graph can capture it"),
        "peer": (str, "project whose files it reads; the plugin then has at(version)"),
        "tried": (list, "releases that it was tried with"),
        "multiple_of": (int, "K and N must be multiples of this"),
        "align": (str, "align algorithm that it uses by default"),
        "tile": (bool, "whether it takes tiles for w13 and w2"),
        "split": (bool, "whether it can launch w13 and w2 separately"),
        "share": (bool, "whether it skips ids of -1, pairs of other ranks, and is told the share of the others"),
        "rows": (bool, "whether it takes x quantised, as it came from other ranks"),
        # The check then allows for the short mantissa of TF32.
        "fp32": (str, "tf32 if it multiplies fp32 as TF32"),
    },
    "formats": {
        "dtype!": (str, "type of activations and output"),
        "weight_bits!": (int, "bits of a weight"),
        "activation_bits!": (int, "bits of an activation in a product"),
        "weight_block": (tuple, "rows and columns that share a scale, 0 = all"),
        "activation_block": (tuple, "rows and features that share a scale, 0 = all"),
        "scale_bytes": (int, "bytes of a scale, with its zero point"),
        "activation_scale_bytes": (int, "bytes of a scale of activations, if they are others"),
        "matrix_scale_bytes": (int, "bytes of one more scale for each matrix of an expert"),
        "activation_roundoff": (float, "relative error of rounding an activation"),
        "even_steps": (bool, "whether that is relative to the largest that share a scale"),
        "weights_rounded": (bool, "whether widening a weight to the dtype rounds it"),
        "product": (str, "what is multiplied, if not values of the dtype"),
        "family": (str, "the format that backends name for it, if not its own"),
        "engine": (str, "what vLLM and SGLang call it in file names"),
    },
    "comm": {
        "layout!": (str, "standard or batched"),
        "ranks!": (str, "one or any"),
        "stages!": (list, "stages that it marks"),
        "formats": (list, "formats of the rows that it sends, if not of any dtype"),
        "devices": (list, "cuda, cpu"),
        "sends": (
            str,
            "all (every rank gets every token), pairs (a token once for each expert), or needed, the default",
        ),
        "whole": (bool, "whether it does the experts too: layer and weights instead of dispatch and combine"),
    },
    "capture": {
        "shows": _SHOWS,
        "called": (str, "name on the command line, if it is not the file's"),
        "of_program": (bool, "whether the profiled program may bring the profiler along"),
    },
    "parse": {
        "report!": (str, "what a run calls its report"),
        "options": (list, "keyword arguments of parse"),
        "folder": (bool, "a report may be a folder"),
    },
    "assembly": {},
    "cli": {"shows": _SHOWS},
}


NAMES: dict[str, dict[str, str]] = {
    "align": {"align!": "the algorithm", "scratch": "(numel, E) -> numbers of scratch memory"},
    "experts": {
        "experts|at!": "the layer's experts; or (version) -> the object of a peer's release that has them",
        "prepare": "(w13, w2) -> the weights as the kernels want them, laid out once",
        "block_m": "(problem) -> the multiple to which an expert's rows are padded",
        "batched": "(received, w13, w2, problem, mark, dtype) -> sums by token, from received rows that are by expert",
        "tiles": "(problem, device, tile) -> tiles of both GEMMs, if INFO says tile",
    },
    "formats": {
        "quantise": "(w) -> values with scales",
        "dequantise": "(weights, dtype) -> the values that they stand for",
        "quantise_activations": "(x) -> values with scales",
    },
    "comm": {
        "prepare": "(parallel, sizes) -> the room of all calls, made once by all ranks together",
        "dispatch|layer!": "tokens to the ranks of their experts; or (x, weights, ...) -> y, all of the layer",
        "combine|layer!": "the experts' results, back",
        "weights": "(w13, w2) of this rank -> what layer takes",
        "check": "(room): UserError that names a rank which did not come",
    },
    "capture": {
        "Options!": "a dataclass of option fields",
        "available!": "() -> the tool, or why it is missing",
        "command!": "-> the argv; a pure function",
        "trace!": "(work, tool, workload, options) -> Traced; UserError if it fails or traces nothing",
    },
    "parse": {
        "sniff!": "(path) -> whether this parser reads it",
        "parse!": "(path) -> Launches",
        "slim!": "(source, target, keep) -> what was left out, and names of machines",
    },
    "assembly": {"sniff!": "(text) -> whether this reader reads it", "read!": "(text) -> Listing"},
    "cli": {"add!": "(parser): add its options and set run", "run": "(arguments): what add set as run"},
}


def check(kind: str, name: str, said: dict[str, Any]) -> None:
    """Raise UserError for an INFO that lacks a required key, or has an unknown one or one of the wrong type."""
    keys = {**_ANY, **KEYS[kind]}
    known = {key.rstrip("!"): of for key, (of, _) in keys.items()}
    lacking = [key[:-1] for key in keys if key.endswith("!") and key[:-1] not in said]
    # A key that nothing reads is usually a misspelt one, and would be ignored silently.
    unknown = [key for key in said if key not in known]
    wrong = [key for key, of in known.items() if key in said and type(said[key]) is not of]
    if lacking or unknown or wrong:
        why = f"lacks {', '.join(lacking)}" if lacking else f"has no use for {', '.join(unknown)}" if unknown else ""
        why = why or f"needs {wrong[0]} to be a {known[wrong[0]].__name__}"
        raise UserError(f"INFO of the {kind} plugin '{name}' {why}; the keys are in moe_lab/spec/contract.py.")


def check_names(kind: str, name: str, module: ModuleType) -> None:
    """Raise UserError for a file that lacks a required name, or where one of the names cannot be called."""
    for wanted in (key[:-1] for key in NAMES[kind] if key.endswith("!")):
        if not any(hasattr(module, one) for one in wanted.split("|")):
            raise UserError(f"The {kind} plugin '{name}' has no '{wanted}'; see moe_lab/spec/contract.py.")
    for one in callables(kind):
        if not callable(getattr(module, one, callable)):  # the default passes: optional names may be absent
            raise UserError(f"'{one}' of the {kind} plugin '{name}' cannot be called; see moe_lab/spec/contract.py.")


def callables(kind: str) -> list[str]:
    """Return the names that a plugin of this kind may define."""
    return [one for key in NAMES[kind] for one in key.rstrip("!").split("|")]


def check_unread(kind: str, name: str, module: ModuleType) -> None:
    """Raise UserError for a public function that nothing calls: ``prepared`` for ``prepare`` would silently not run."""
    for one, value in vars(module).items():
        # What the file imports from elsewhere is public there, and not meant as part of the plugin.
        own = isinstance(value, FunctionType) and value.__module__ == module.__name__
        if own and not one.startswith("_") and one not in callables(kind):
            raise UserError(
                f"Nothing calls '{one}' of the {kind} plugin '{name}'; rename it _{one} if it is a helper, else see "
                "the names in moe_lab/spec/contract.py."
            )
