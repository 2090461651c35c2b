#!/bin/sh
# Migrates, then serves as this process (PID 1), so that signals arrive. Other commands of iris-api
# run unchanged: `docker run iris-api migrate`.
set -eu
if [ "${1:-}" = serve ]; then
    iris-api migrate &
    trap 'kill "$!"' INT TERM # PID 1 gets only the signals that it traps
    wait "$!"
    trap - INT TERM
fi
exec iris-api "$@"
