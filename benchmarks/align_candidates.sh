#!/usr/bin/env bash
# Measures every align algorithm by graph replay, L2 cold; under 3 minutes on an H200, most of it compiling.
# Usage: bash benchmarks/align_candidates.sh OUTDIR
# One measurement that fails leaves the others alone; the exit status is 0 only if all commands ended well.
out=${1:?usage: bash benchmarks/align_candidates.sh OUTDIR}
mkdir -p "$out"
status=0

bench() { # NAME, then options of bench-align
  local name=$1
  shift
  timeout 120 python3 -W ignore -m moe_lab.gpu bench-align --modes graph --table --repetitions 30 \
    --out "$out/$name.json" "$@" 2>"$out/$name.txt" || status=1
  tr '\r' '\n' <"$out/$name.txt" | grep -v 'case/s\|s/case\|case]$' | tail -n 40
}

ours="auto one_launch multi_block two_kernel"
bench align_e256_large --experts 256 --topk 8 --tokens 1024 4096 16384 65536 --algorithms $ours triton_4stage radix_sort
bench align_e256_small --experts 256 --topk 8 --tokens 1 4 16 64 256 512 --algorithms $ours small
bench align_e128 --experts 128 --topk 8 --tokens 1 64 1024 4096 16384 65536 --algorithms $ours
bench align_e64 --experts 64 --topk 6 --tokens 1 256 4096 65536 --algorithms $ours
exit $status
