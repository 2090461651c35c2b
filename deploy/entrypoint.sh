#!/bin/sh
# Migrates, then serves as this very process (PID 1), so that signals arrive. Other commands of
# iris-api run as they are: `docker run iris-api migrate`.
set -eu
if [ "${1:-}" = serve ]; then
    iris-api migrate &
    trap 'kill "$!"' INT TERM # PID 1 is told only of what it traps
    wait "$!"
    trap - INT TERM
fi
exec iris-api "$@"
