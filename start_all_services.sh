#!/usr/bin/env bash
# Starts the orders demonstration natively: a private PostgreSQL, a private Kafka, two order services, two pollers, the
# connect process with its connector, inventory and notification. Says what runs where; logs per service in ./logs.
# ./stop_all_services.sh ends it. The servers are private: what they hold is gone then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
PATH="$PATH:${HOME:-/root}/.cargo/bin"
logs=${LOGS:-logs}
mkdir -p "$logs"
pid_file=$logs/all.pid
if [[ -f $pid_file ]] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
    echo "already running (process $(cat "$pid_file")); ./stop_all_services.sh ends it" >&2
    exit 1
fi
script/setup
target=${CARGO_TARGET_DIR:-target}
echo "building (a few minutes the first time)" >&2
cargo build --quiet --locked -p tailwater -p orders -p xtask
setsid "$target/debug/xtask" orders --logs "$logs" >"$logs/all.log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$pid_file"
until grep -qx ready "$logs/all.log"; do
    if ! kill -0 "$pid" 2>/dev/null; then
        cat "$logs/all.log" >&2
        rm -f "$pid_file"
        exit 1
    fi
    sleep 0.2
done
grep -vx ready "$logs/all.log"
cat <<'X'

Try it:
X
api=$(grep -o "http://127.0.0.1:[0-9]*" "$logs/all.log" | head -1)
cat <<X
  curl -X POST $api/orders/transactional-outbox      -H 'Content-Type: application/json' -d '{"customer":"Ann","item":"hat","quantity":1}'
  curl -X POST $api/orders/listen-to-yourself        -H 'Content-Type: application/json' -d '{"customer":"Ann","item":"hat","quantity":1}'
  curl -X POST $api/orders/transactional-log-tailing -H 'Content-Type: application/json' -d '{"customer":"Ann","item":"hat","quantity":1}'
X
