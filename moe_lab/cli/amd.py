"""What ``moe-lab capture rocprof-compute`` and ``capture rocprofv3`` do."""

import argparse

from moe_lab.cli.commands import command, print_run


def capture_rocprof_compute(arguments: argparse.Namespace) -> None:
    """Count a command's kernels with rocprof-compute and print the run's folder."""
    from moe_lab.runs.capture import rocprof_compute

    options = rocprof_compute.Options(
        tuple(arguments.kernel), tuple(arguments.block), arguments.roof_only, tuple(arguments.tool_option)
    )
    run = rocprof_compute.capture(
        command(arguments), arguments.name, options=options, root=arguments.profiles, overwrite=arguments.overwrite
    )
    print_run(run)


def capture_rocprofv3(arguments: argparse.Namespace) -> None:
    """Trace a command with rocprofv3 and print the run's folder."""
    from moe_lab.runs.capture import rocprofv3

    options = rocprofv3.Options(arguments.output_format, tuple(arguments.tool_option))
    run = rocprofv3.capture(
        command(arguments), arguments.name, options=options, root=arguments.profiles, overwrite=arguments.overwrite
    )
    print_run(run)
