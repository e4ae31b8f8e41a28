set -euo pipefail
settings=$SLURM_SUBMIT_DIR/ray_config.yaml
python=$folder/.venv/bin/python
ray=$folder/.venv/bin/ray
mkdir -p "$folder/outputs"
cd "$folder"

# Ports of this allocation: two may share a machine, and Ray's defaults would meet.
first_port=$((22000 + SLURM_JOB_ID % 500 * 5))
gcs_port=$first_port
dashboard_port=$((first_port + 1))

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --all-ip-addresses | awk '{ print $1; exit }')

# The token is this allocation's own, in a file that only you can read, and goes with it.
umask 077
state=$(mktemp -d "$folder/outputs/slurm-$SLURM_JOB_ID-XXXXXX")
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' > "$state/token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_USAGE_STATS_ENABLED=0
export RAY_ADDRESS="$head_ip:$gcs_port"
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID-${state##*-}" # a name that nobody on the nodes could have taken before

on_every_node() { # a command, for two minutes at most
    RAY_ADDRESS='' timeout 120 srun --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 "$@"
}

steps=()
job=
finish() {
    [ -z "$job" ] || kill "$job" 2> /dev/null || true
    [ -z "$job" ] || wait "$job" || true
    [ "${#steps[@]}" -eq 0 ] || kill "${steps[@]}" 2> /dev/null || true
    wait || true
    on_every_node rm -rf "$RAY_TMPDIR" || true
    rm -rf "$state"
}
trap finish EXIT
trap 'exit 143' TERM INT
on_every_node mkdir -m 700 "$RAY_TMPDIR"

# With cluster.tls: one certificate for all addresses of these nodes, beside the token; nothing is kept to sign another with.
if [ "$tls" = yes ]; then
    files=$state/tls
    addresses=$(on_every_node hostname --all-ip-addresses)
    # shellcheck disable=SC2086 # words, each an address
    "$python" -m cluster.tls "$files" $addresses
    export RAY_USE_TLS=1 RAY_TLS_SERVER_CERT="$files/tls.crt" RAY_TLS_SERVER_KEY="$files/tls.key" RAY_TLS_CA_CERT="$files/ca.crt"
fi

start_ray() {  # the node, then what ray start is told
    local node=$1
    shift
    RAY_ADDRESS='' srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$node" \
        --output="$folder/outputs/slurm-$SLURM_JOB_ID-ray-$node.log" \
        "$ray" start --block --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=$((first_port + 2)) \
        --metrics-export-port=$((first_port + 3)) --num-cpus="$cpus" --num-gpus="$gpus" "$@" &
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
    --dashboard-host=127.0.0.1 --dashboard-port="$dashboard_port" --ray-client-server-port=$((first_port + 4))
wait_for 1
for node in "${nodes[@]:1}"; do
    start_ray "$node" --address="$head_ip:$gcs_port"
done
wait_for "${#nodes[@]}"

echo "Ray runs on ${#nodes[@]} nodes. Dashboard: ssh -N -L 8265:127.0.0.1:$dashboard_port $head, with the token in $state/token"
"$python" -m "jobs.$stage" --config "$settings" &
job=$!
wait "$job"
