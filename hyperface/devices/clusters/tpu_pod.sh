#!/bin/bash
# Starts one process on every host of a TPU slice, from a machine with gcloud:
#   bash tpu_pod.sh NAME ZONE HOSTS ms1mv3-iresnet50-arcface --shard-agents
# hyperface must be installed on the hosts, and its folder be the one that ssh arrives in; data and
# runs belong on a disk or bucket that every host has mounted.
set -euo pipefail

name=$1 zone=$2 hosts=$3
shift 3
coordinator=$(gcloud compute tpus tpu-vm describe "$name" --zone "$zone" \
  --format 'value(networkEndpoints[0].ipAddress)'):12721
for ((host = 0; host < hosts; host++)); do
  gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker "$host" --command \
    "python3 -m hyperface train ${*@Q} --coordinator $coordinator --processes $hosts --process $host" &
  processes[host]=$!
done
for process in "${processes[@]}"; do
  wait "$process"
done
