"""Which weight row lies where in a unit of ``hopper_moe``, said once more than in ``prepare.py``, for tests."""


def row_of_w13(N, unit, half, warp, up, lane):
    """r is a gate and r + 8 its up, N rows further on; the next feature is 64 rows of the unit further on."""
    return up * N + unit * 64 + warp * 16 + lane * 2 + half


def row_of_w2(unit, half, warp, up, lane):
    return unit * 128 + warp * 32 + lane * 4 + half * 2 + up
