#!/usr/bin/env bash
# Ends what ./start_all_services.sh started: each program in good order, then the private servers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
pid_file=${LOGS:-logs}/all.pid
if [[ ! -f $pid_file ]] || ! kill -0 "$(cat "$pid_file")" 2>/dev/null; then
    echo "not running"
    rm -f "$pid_file"
    exit 0
fi
pid=$(cat "$pid_file")
kill "$pid"
while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
rm -f "$pid_file"
echo "stopped"
