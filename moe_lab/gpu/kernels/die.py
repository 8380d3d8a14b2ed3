# SPDX-License-Identifier: Apache-2.0
"""Which tile a program takes where thread blocks are dealt to dies in turn, each with an L2 cache of its own."""

import triton.language as tl

from moe_lab.gpu.kernels._jit import jit


@jit
def on_its_die(program, programs, DIES: tl.constexpr):
    """Return the number of a program among ``programs`` such that those of a die are neighbours, which share weights.

    Every number from 0 to ``programs`` - 1 is taken once; with one die it is the program's own.
    """
    if DIES > 1:
        die = program % DIES
        program = die * (programs // DIES) + tl.minimum(die, programs % DIES) + program // DIES
    return program
