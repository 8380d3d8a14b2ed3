# SPDX-License-Identifier: Apache-2.0
"""``moe-lab configs``: list tuned tiles, and exchange them with vLLM and SGLang."""

import argparse
import json
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moe_lab.cli._print import aligned, print_notes
from moe_lab.spec import configs
from moe_lab.spec.configs import Tuned, choose, engines, measured
from moe_lab.spec.errors import UserError

INFO = {
    "about": "tuned tiles: list them, exchange them with vLLM and SGLang",
    "shows": {
        (
            "moe-lab configs [export --for vllm|sglang FILE_OR_RUN --out DIR] [import [--model "
            "PRESET|KxNxExTOPK] FILE_OR_RUN]"
        ): (
            "which tuned tiles do backends find here? Writes the files that vLLM and SGLang load, reads "
            "theirs; of a run of `bench experts` keeps the times by which `auto` chooses"
        ),
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.set_defaults(run=listing)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    actions = parser.add_subparsers(dest="action", metavar="[export | import]")
    export = actions.add_parser("export", help="write the files that an engine loads")
    export.add_argument("source", metavar="FILE_OR_RUN", help="file of tiles, or run of moe-lab tune")
    export.add_argument("--for", dest="engine", choices=engines.ENGINES, required=True, help="engine to load them")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder")
    export.set_defaults(run=export_tiles)
    importer = actions.add_parser(
        "import", help="keep an engine's file, or a run's tiles or times, where a lookup finds them"
    )
    importer.add_argument("source", metavar="FILE_OR_RUN", help="file of vLLM or SGLang, file of tiles, or run")
    importer.add_argument("--model", help="preset, or sizes as KxNxExTOPK: an engine's file does not state K and topk")
    importer.add_argument(
        "--dtype",
        default="",
        metavar="FORMAT",
        help="where the name of an engine's file leaves the format open (bf16 or fp16, fp8_tensor or fp8_token, groups "
        "of int4); default: the first of these, groups of 128",
    )
    importer.add_argument(
        "--out", type=Path, metavar="DIR", help="default: the first of $MOE_LAB_CONFIGS, else the package"
    )
    importer.set_defaults(run=import_tiles)


def listing(arguments: argparse.Namespace) -> None:
    """Print every file of tiles that a lookup can find."""
    import pandas as pd

    rows = [_row(configs.read(path)) for path in configs.files()]
    if arguments.format == "json":
        print(json.dumps(rows, indent=1))
    elif rows:
        print(aligned(pd.DataFrame(rows)))
    else:
        print(
            "There are no tuned tiles, so backends use their own: moe-lab tune finds some, configs import keeps them."
        )


def _row(tuned: Tuned) -> dict[str, Any]:
    sizes = {key: str(getattr(tuned, key)) for key in ("E", "N", "K", "topk")}
    own = {"backend": tuned.backend, "gpu": tuned.gpu, **sizes, "format": tuned.format}
    known = {"M": " ".join(str(point.M) for point in tuned.points), "triton": (tuned.versions or {}).get("triton")}
    return {**own, **known, "origin": tuned.origin or None}


def export_tiles(arguments: argparse.Namespace) -> None:
    """Write an engine's files and print their paths."""
    tuned = _source(arguments.source)
    for path in engines.export(tuned, arguments.engine, arguments.out):
        print(path)
    print_notes(engines.left_out(tuned, arguments.engine))


def import_tiles(arguments: argparse.Namespace) -> None:
    """Store tiles, or times of backends, where a lookup finds them, and print the paths."""
    from moe_lab import runs
    from moe_lab.spec.guard.places import gpu_slug

    # os.path.isfile, as Path.is_file raises for names that no file can have.
    path, folder = Path(arguments.source), arguments.out or configs.folders()[0]
    if not os.path.isfile(path) and (run := runs.load(arguments.source)).manifest.get("bench") == "experts":
        found = measured.of_run(run.rows(), run.manifest)
        if not found:
            raise UserError(f"'{run.manifest['name']}' has no times of our backends with uniform routing.")
        for times in found:
            print(measured.write(times, folder / gpu_slug(times.gpu)))
        return
    if os.path.isfile(path) and engines.is_theirs(path):
        K, topk = _unsaid(path, arguments.model)
        tuned = engines.load(path, K=K, topk=topk, format=arguments.dtype)
        print_notes([*engines.notes(tuned), *_of_another_triton(tuned)])
    else:
        tuned = _source(arguments.source)
    print(configs.write(tuned, folder / gpu_slug(tuned.gpu)))


def _of_another_triton(tuned: Tuned) -> list[str]:
    release = str((tuned.versions or {}).get("triton") or "")
    ours = version("triton") if find_spec("triton") else ""
    # Patch releases such as 3.5.0 and 3.5.1 compile alike.
    if not release or not ours or release.split(".")[:2] == ours.split(".")[:2]:
        return []
    return [f"The file was tuned with Triton {release}, and here is {ours}: tune again where its tiles are slow."]


def _unsaid(path: Path, model: str | None) -> tuple[int, int]:
    """Return K and topk, which an engine's file does not state, from a preset or sizes that fit its E and N."""
    from moe_lab.spec import models

    named = engines.named(path)
    E, N = int(named["E"]), int(named["N"])
    # N is that of one rank, so a preset fits with some tensor parallelism.
    fitting = _fitting(E, N)
    advice = f"give --model {' or '.join([*fitting, f'KxNxExTOPK such as 2048x{N}x{E}x8'])}"
    if not model:
        raise UserError(f"An engine's file does not state K and topk; {advice}.")
    sizes = models.sizes(model)
    if sizes and (sizes[1], sizes[2]) == (N, E):
        return sizes[0], sizes[3]
    preset = None if sizes else models.model(model)
    if preset and model in fitting:
        return preset.K, preset.topk
    theirs = f"E={preset.E}, N={preset.N}/tp" if preset else f"E={sizes[2]}, N={sizes[1]}" if sizes else ""
    raise UserError(f"The file is for E={E}, N={N}, not for {model} ({theirs}); {advice}.")


def _fitting(E: int, N: int) -> list[str]:
    """Return the presets with E experts whose N, whole or split over up to 64 GPUs, is that of a file."""
    from moe_lab.spec.models import MODELS

    whole = [N * ranks for ranks in (1, 2, 4, 8, 16, 32, 64)]
    return [name for name, preset in MODELS.items() if preset.E == E and preset.N in whole]


def _source(source: str) -> Tuned:
    """Return the tiles in a file, or those found by a run."""
    from moe_lab import runs

    path = Path(source)
    if os.path.isfile(path) and path.name != runs.MANIFEST:
        if engines.is_theirs(path):
            raise UserError(f"'{path.name}' is an engine's file already; `moe-lab configs import` reads it.")
        return configs.read(path)
    run = runs.load(source)
    if run.manifest.get("bench") != "tune":
        raise UserError(f"'{run.manifest['name']}' is not a run of moe-lab tune; give one, or a file of tiles.")
    found = choose.tuned(choose.records(run.rows()), run.manifest)
    if found is None:
        raise UserError(f"'{run.manifest['name']}' has no M with a result; run the same tuning again to go on.")
    return found
