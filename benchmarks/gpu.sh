#!/usr/bin/env bash
# The figures that need a GPU, in steps that take ten minutes or less on one of 2023 or later.
#
#     benchmarks/gpu.sh STEP DATA OUT [BUDGET]
#
# STEP is one of: graphs speed memory cifar10 mnist fashion-mnist search times. DATA is a folder with
# mnist, fashion_mnist and cifar10; result files go to OUT. BUDGET is full, or quick for a dry run on a CPU.
# What is done is not done again; rows of a table share the GPU, so their result files hold no times.
set -euo pipefail
step=$1 data=$2 out=$3 budget=${4:-full}
work=${WORK:-runs/gpu}
here=$(dirname "$0")
mkdir -p "$out" "$work"

# table TABLE ROW …: one row after another
table() {
  local name=$1 row
  shift
  for row in "$@"; do
    python3 -m trifecta reproduce "$name" --rows "$row" --budget "$budget" --precision bf16 --untimed \
      --data-root "$data" --out "$out/reproduced" --work "$work"
  done
}

measured() { python3 -m trifecta bench "$@" --precision bf16 --batch-size "${BATCH:-512}"; }

case $step in
  graphs)
    python3 "$here/compare_graphs.py" "$out/graphs.jsonl" ;;
  speed)
    for network in small large airbench; do
      measured speed --network $network --rounds "${ROUNDS:-5}" --steps "${STEPS:-20}" --width "${WIDTH:-1}" \
        --rows trifecta,superfecta,mono-forward,backprop,backprop-muon,published --out "$out/speed.jsonl"
    done ;;
  memory)
    measured memory --networks large,airbench --width "${WIDTH:-1}" \
      --rows trifecta,superfecta,backprop --out "$out/memory.jsonl" ;;
  cifar10 | mnist | fashion-mnist)
    table $step published-trifecta-large-$step published-ff-large-$step &
    table $step trifecta-large-$step symba-large-$step &
    table $step backprop-large-$step &
    wait ;;
  search)
    for _ in $(seq "${WORKERS:-3}"); do
      python3 "$here/search_airbench.py" "$data/cifar10" "$out/search.jsonl" &
    done
    wait ;;
  times)
    python3 "$here/time_to_accuracy.py" "$data/cifar10" "$out/times.jsonl" --seeds "${SEEDS:-3}" '3: *' 'wide: *' ;;
  *)
    echo "no step '$step': see the head of $0" >&2
    exit 2 ;;
esac
