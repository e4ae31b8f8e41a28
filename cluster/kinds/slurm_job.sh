set -euo pipefail
settings=$SLURM_SUBMIT_DIR/ray_config.yaml
python=$folder/.venv/bin/python
ray=$folder/.venv/bin/ray
mkdir -p "$folder/outputs"
cd "$folder"

# Ports of this allocation: two may share a machine, and Ray's defaults would meet.
offset=$((SLURM_JOB_ID % 500 * 4))
gcs_port=$((22000 + offset))
dashboard_port=$((22001 + offset))

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --all-ip-addresses | awk '{ print $1; exit }')

# The token is this allocation's own, in a file that only you can read, and goes with it.
umask 077
state=$(mktemp -d "$folder/outputs/slurm-$SLURM_JOB_ID-XXXXXX")
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$state/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_USAGE_STATS_ENABLED=0
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_ADDRESS="$head_ip:$gcs_port"

steps=()
job=
finish() {
    [ -z "$job" ] || kill "$job" 2> /dev/null || true
    [ -z "$job" ] || wait "$job" || true
    [ "${#steps[@]}" -eq 0 ] || kill "${steps[@]}" 2> /dev/null || true
    wait || true
    rm -rf "$state"
}
trap finish EXIT
trap 'exit 143' TERM INT

start_ray() {  # the node, then what ray start is told
    local node=$1
    shift
    RAY_ADDRESS='' srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" \
        --output="$folder/outputs/slurm-$SLURM_JOB_ID-ray-$node.log" \
        "$ray" start --block --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=$((22002 + offset)) \
        --metrics-export-port=$((22003 + offset)) --num-cpus="$cpus" --num-gpus="$gpus" "$@" &
    steps+=($!)
}

logs="see $folder/outputs/slurm-$SLURM_JOB_ID-ray-*.log"
alive() {  # how many nodes are in the cluster; nothing while the head is not up
    "$python" -c 'import ray; ray.init("auto", logging_level="error"); print(sum(node["Alive"] for node in ray.nodes()))' 2> /dev/null
}
wait_for() {  # so many nodes, 5 minutes at most
    local deadline=$((SECONDS + 300)) step
    until [ "$(alive)" = "$1" ]; do
        for step in "${steps[@]}"; do
            kill -0 "$step" 2> /dev/null || { echo "Ray ended on a node: $logs" >&2; exit 1; }
        done
        [ "$SECONDS" -lt "$deadline" ] || { echo "fewer than $1 nodes after 5 minutes: $logs" >&2; exit 1; }
        sleep 2
    done
}

start_ray "$head" --head --node-ip-address="$head_ip" --port="$gcs_port" \
    --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port"
wait_for 1
for node in "${nodes[@]:1}"; do
    start_ray "$node" --address="$head_ip:$gcs_port"
done
wait_for "${#nodes[@]}"

echo "Ray runs on ${#nodes[@]} nodes. Dashboard: ssh -N -L 8265:127.0.0.1:$dashboard_port $head, with the token in $state/token"
"$python" -m "jobs.$stage" --config "$settings" &
job=$!
wait "$job"
