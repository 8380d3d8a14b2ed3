"""Time versions of the launch of a few tokens with weights of four bits, beside the large kernel, in one run.

python benchmarks/few_versions.py NAME=DIR ... [--m 1,2,4] [--formats int4_w4a16,mxfp4] [--stamps]    # needs SM90

DIR is a copy of ``moe_lab/gpu/kernels``; the results of a NAME with "wrong" are not checked. ``--stamps`` prints when
what happened in blocks (first, median, last), us after each began. ``--cold`` runs other kernels before each call, so
that no instructions are left from the call before.
"""

import argparse
import importlib.util
import shutil
import tempfile
from pathlib import Path
from statistics import median

import torch

from moe_lab.gpu import formats, routing
from moe_lab.gpu.bench import clock
from moe_lab.gpu.bench.check import Inputs, Oracle
from moe_lab.gpu.experts import hopper
from moe_lab.spec import ranges
from moe_lab.spec.problem import MoEProblem

# File, text after which a time is taken, by whom and of what; of several takers the last counts.
STAMPS = [
    ("few.cu", "        write_tokens(x, M);\n", "threadIdx.x == 0", "x has come"),
    ("few.cu", "        meet<3, 32 * COPIERS>();\n", "threadIdx.x == CONSUMERS", "experts known"),
    ("few.cu", "at.stage * 8, at.parity);\n", "lane == 0 && !stage", "first weights"),
    ("few.cu", "        if (nth >= BUFFERS) meet_at", "lane == 0 && nth == of_w13 - 1", "last item of w13"),
    ("sums.cuh", "gated(sum.x * by + bias.x, sum.y * by + bias.y));\n", "threadIdx.x == ADD_BEGIN", "end of w13"),
    ("handed.cuh", "        __syncwarp();\n", "lane == 0 && nth == experts - 1", "all hidden activations"),
    ("few.cu", "        if (nth >= BUFFERS) meet_at", "lane == 0 && nth == all - 1", "last item of w2"),
    ("sums.cuh", "sum.y + bias.y);\n", "threadIdx.x == ADD_BEGIN", "end"),
]


def loaded(name: str, folder: Path, stamps: bool):
    """The module ``few`` of a version."""
    own = Path(tempfile.mkdtemp()) / "kernels"
    shutil.copytree(folder, own)
    few = own / "hopper" / "few"
    if stamps:
        for i, (file, anchor, who, _) in enumerate(STAMPS):
            text = (few / file).read_text()
            assert anchor in text, anchor
            at = len(anchor) if anchor.endswith("\n") else 0
            text = text.replace(anchor, f"{anchor[:at]}if ({who}) stamp({i});\n{anchor[at:]}", 1)
            (few / file).write_text(text)
        text, begin = (
            (few / "few.cu").read_text(),
            "    Shared& s = shared();\n    const int lane = threadIdx.x & 31, warp",
        )
        at = "stamps = (u64*)(memory + HANDED_BEGIN + 2 * numel * PAIR_BYTES);\n"
        begins, at_ns = len(STAMPS), f"stamps[{len(STAMPS) + 1} * BLOCKS + blockIdx.x]"
        at += f"if (!threadIdx.x) {{ stamp({begins}); {at_ns} = nanoseconds(); }}\n"
        assert text.count(begin + " = threadIdx.x >> 5, M") == 1
        text = text.replace(begin + " = threadIdx.x >> 5, M", at + begin + " = threadIdx.x >> 5, M")
        (few / "few.cu").write_text(text)
        stamp = """
__shared__ u64* stamps;
__device__ inline u64 clocks() { u64 t; asm volatile("mov.u64 %0, %clock64;" : "=l"(t)); return t; }
__device__ inline u64 nanoseconds() { u64 t; asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t)); return t; }
#define stamp(i) stamps[(i) * BLOCKS + blockIdx.x] = clocks()

"""
        ring = (few / "ring.cuh").read_text()
        (few / "ring.cuh").write_text(ring.replace("constexpr", stamp + "constexpr", 1))
    spec = importlib.util.spec_from_file_location(f"few_{name.replace('-', '_')}", few / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chill(device: torch.device) -> None:
    """Have every flush before a call run the large kernel in other formats first."""
    calls = []
    for format in ("int4_w4a16_g32_zeros", "int4_w4a16_g64", "nvfp4", "int8_w8a16", "bf16"):
        for M in (4, 512):
            p = MoEProblem(M=M, K=512, N=256, E=8, topk=2, format=format)
            w13, w2 = (torch.randn(s, device=device).bfloat16() for s in ((p.E, p.rows13, p.K), (p.E, p.K, p.N)))
            quantised = (w13, w2) if format == "bf16" else (formats.quantise(w13, format), formats.quantise(w2, format))
            weights, ids = routing.synthetic("uniform", M, p.E, p.topk, seed=M, device=device)
            x, prepared = torch.randn(M, p.K, device=device).bfloat16(), hopper.prepare(*quantised)
            calls.append(
                clock.ready(
                    lambda a=(x, *prepared, weights, ids), p=p: hopper.experts(
                        *a, problem=p, mark=ranges.marker("none"), shape=hopper.default_shape(p)
                    ),
                    "graph",
                    device,
                )
            )
    flush = clock.read_flush

    def chilled(device: torch.device):
        def run() -> None:
            for call in calls:
                call()
            flush(device)()

        return run

    clock.read_flush = chilled


def main() -> None:
    """Print a line of medians for each format and M."""
    parser = argparse.ArgumentParser()
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--m", default="1,2,4")
    parser.add_argument("--formats", default="int4_w4a16,mxfp4")
    parser.add_argument("--model", default="qwen3-30b-a3b")
    parser.add_argument("--shapes", default="", help="TOGETHER:TOGETHER2:TEAMS:COPIERS:STAGES, ...")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--stamps", action="store_true")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--mhz", type=float, default=1980.0, help="clock of multiprocessors, for --stamps")
    given = parser.parse_args()
    device, silent = torch.device("cuda"), ranges.marker("none")
    versions = {
        name: loaded(name, Path(folder), given.stamps) for name, folder in (v.split("=") for v in given.versions)
    }
    if given.cold:
        chill(device)
    for format in given.formats.split(","):
        base = MoEProblem.preset(given.model, 1, format)
        g = torch.Generator(device).manual_seed(1)

        def normal(*shape, g=g):
            return torch.randn(*shape, generator=g, device=device)

        w13 = formats.quantise((normal(base.E, base.rows13, base.K) * base.K**-0.5).bfloat16(), format)
        w2 = formats.quantise((normal(base.E, base.K, base.N) * base.N**-0.5).bfloat16(), format)
        prepared = hopper.prepare(w13, w2)
        for M in map(int, given.m.split(",")):
            problem = MoEProblem.preset(given.model, M, format)
            x = normal(M, base.K).bfloat16()
            weights, ids = routing.synthetic("uniform", M, base.E, base.topk, seed=M, device=device)
            oracle = Oracle(Inputs(x, w13, w2, weights, ids), problem)
            memories = {}
            calls = {
                "large": lambda p=problem, a=(x, *prepared, weights, ids): hopper.experts(
                    *a, problem=p, mark=silent, shape=hopper.default_shape(p)
                )
            }
            for name, module in versions.items():
                own = module.default_shape(problem, 232448)
                shapes = [own] if own else []
                if own and "old" not in name:
                    shapes += [type(own)(*map(int, s.split(":"))) for s in given.shapes.split(",") if s]
                for shape in shapes:
                    words = getattr(module, "memory_words", lambda p: 2)(problem)
                    room = 2 * 132 * (len(STAMPS) + 2)
                    memory = torch.zeros(words + room, dtype=torch.int32, device=device)
                    memories.setdefault(name, memory[words:])
                    calls[f"{name} {':'.join(map(str, shape))}"] = (
                        lambda m=module, w=memory, p=problem, s=shape, a=(x, *prepared, weights, ids): m.few(
                            *a, w, p, s
                        )
                    )
            steps = {}
            for name, call in calls.items():
                steps[name] = clock.ready(call, "graph", device)
                for _ in range(3):
                    errors = oracle.errors(call())
                    assert "wrong" in name or oracle.right(errors), (name, errors, oracle.bound)
            times, _ = clock.interleave(steps, given.repetitions, device)
            floor = problem.minimum_bytes(len(ids.unique())) / 3.35e6
            print(format, "M", M, f"floor {floor:.1f}", {n: round(median(t), 1) for n, t in times.items()}, flush=True)
            for name, memory in memories.items() if given.stamps else ():
                own = next(n for n in steps if n.split()[0] == name)
                seen, begins = [], []
                for _ in range(20):
                    memory.zero_()
                    clock.read_flush(device)()
                    steps[own]()
                    torch.cuda.synchronize()
                    t = memory.view(torch.int64)[: 132 * (len(STAMPS) + 2)].view(-1, 132).double().cpu()
                    t[t == 0] = float("nan")
                    begins.append((t[-1] - t[-1].min()) / 1e3)
                    seen.append((t[:-2] - t[-2]) / given.mhz)
                begin = torch.stack(begins).median(0).values
                print(f"  {name} begin: {begin.min():.2f} {begin.median():.2f} {begin.max():.2f}")
                for (*_, what), row in zip(STAMPS, torch.stack(seen).nanmedian(0).values, strict=True):
                    row = row[~row.isnan()]
                    if len(row):
                        print(f"  {name} {what}: {row.min():.2f} {row.median():.2f} {row.max():.2f}", flush=True)


main()
