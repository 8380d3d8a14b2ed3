# SPDX-License-Identifier: Apache-2.0
"""``moe-lab columns``: the schema as JSON, to be kept beside exported tables."""

import argparse
import json

from moe_lab.spec import schema

INFO = {
    "about": "what each column of a table is: dtype, unit, label and meaning, as JSON",
    "shows": {
        "moe-lab columns [TABLE]": "what is each column of an exported table: dtype, unit, label and meaning, as JSON",
    },
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("table", nargs="?", choices=list(schema.TABLES), help="one table (default: all)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the columns of one table, or of all."""
    print(json.dumps(schema.described(arguments.table), indent=1, ensure_ascii=False))  # µ stays a letter
