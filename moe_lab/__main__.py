# SPDX-License-Identifier: Apache-2.0
"""``moe-lab`` and ``python -m moe_lab``."""

import sys


def main() -> int:
    """Run the command line; a stop while it is still being loaded is a sentence as well."""
    try:
        from moe_lab import cli
    except KeyboardInterrupt:
        sys.stderr.write("moe-lab: stopped.\n")
        return 130
    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
