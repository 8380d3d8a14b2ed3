"""`python -m moe_lab` is the `moe-lab` command."""

from moe_lab.cli import main

raise SystemExit(main())
