#!/usr/bin/env bash
# Runs the tests once under each instruction set that this machine has: kernels compiled for it alone, and torch,
# oneDNN, MKL and numpy held to it. Arguments go to pytest; without any, every test runs that needs no machine of its own.
# ONNX Runtime and OpenBLAS have no such switch that is safe to set: they take what the processor has in every run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
flags=" $(grep -m1 '^flags' /proc/cpuinfo) "
level=1
case $flags in *" avx2 "*) level=2 ;; esac
case $flags in *" avx512f "*) case $flags in *" avx512bw "*) level=3 ;; esac ;; esac

# Names of numpy's dispatched features that are on here and match a pattern: numpy refuses those that it does not know.
numpy_features() {
  "$python" -c 'import re, sys
from numpy._core._multiarray_umath import __cpu_dispatch__ as dispatched, __cpu_features__ as found
print(" ".join(name for name in dispatched if found.get(name) and re.search(sys.argv[1], name)))' "$1"
}

run() {
  local name=$1 march=$2 without=$3
  shift 3
  local tree
  tree=$(mktemp -d)
  trap 'rm -rf "$tree"' RETURN
  git ls-files -z | xargs -0 cp -a --parents -t "$tree"
  [ -e ../shared ] && ln -s "$PWD/../shared" "$tree/shared"
  echo "== instruction set $name: kernels for $march, ${environment[*]}"
  (
    cd "$tree"
    CFLAGS="-march=$march -DSLIMCTR_ONE_INSTRUCTION_SET" "$python" setup.py -q build_ext --inplace --force
    env PYTHONPATH="$tree" OMP_NUM_THREADS=1 SLIMCTR_DATA="${SLIMCTR_DATA:-$data}" "${environment[@]}" \
      NPY_DISABLE_CPU_FEATURES="$(numpy_features "$without")" \
      "$python" -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder "$@"
  )
}

data=$(realpath -m ../shared/data)
[ $# -gt 0 ] || set -- -m "not alone"
environment=(ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2)
run baseline x86-64-v2 'AVX|FMA|X86_V[34]' "$@"
if [ $level -ge 2 ]; then
  environment=(ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2)
  run avx2 x86-64-v3 'AVX512|X86_V4' "$@"
fi
if [ $level -ge 3 ]; then
  environment=(ATEN_CPU_CAPABILITY=avx512 ONEDNN_MAX_CPU_ISA=AVX512_CORE MKL_ENABLE_INSTRUCTIONS=AVX512)
  run avx512 x86-64-v4 '^$' "$@"
fi
echo "every instruction set of this machine passed"
