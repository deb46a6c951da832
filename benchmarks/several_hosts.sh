#!/usr/bin/env bash
# Two hosts emulated by network namespaces on one Linux machine, joined by a link of a stated rate.
#
#     sudo benchmarks/several_hosts.sh RATE PARALLEL OUT [OPTIONS OF trifecta train …]
#     sudo benchmarks/several_hosts.sh 100mbit layers runs/hosts --data cifar10/ --epochs 1 --width 0.25
#
# RATE is one of tc's, such as 1gbit or 100mbit, in each direction. Each host runs one process with one thread
# and sees no other network, so nothing of the run can be shared but what goes over the link and the disk.
# The first host writes the run folder OUT.
set -euo pipefail
rate=$1 parallel=$2 out=$3
shift 3
python=${PYTHON:-python3}

cleanup() {
  kill $(jobs -p) 2> /dev/null || true
  ip netns del trifecta-0 2> /dev/null || true
  ip netns del trifecta-1 2> /dev/null || true
}
trap cleanup EXIT

ip netns add trifecta-0
ip netns add trifecta-1
ip link add to-1 netns trifecta-0 type veth peer name to-0 netns trifecta-1
for host in 0 1; do
  link=to-$((1 - host))
  inside=(ip netns exec "trifecta-$host")
  "${inside[@]}" ip link set lo up
  "${inside[@]}" ip address add "10.77.0.$((host + 1))/24" dev "$link"
  "${inside[@]}" ip link set "$link" up
  # A token bucket: so many bits a second, after a burst of a few packets.
  "${inside[@]}" tc qdisc add dev "$link" root tbf rate "$rate" burst 256kb latency 100ms
done

# host NUMBER: its process of the run
host() {
  ip netns exec "trifecta-$1" env OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME="to-$((1 - $1))" \
    "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank "$1" \
    --master-addr 10.77.0.1 --master-port 29400 \
    -m trifecta train --parallel "$parallel" --out "$out" "${@:2}"
}

host 1 "$@" &
host 0 "$@"
wait
