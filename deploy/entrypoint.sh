#!/bin/sh
# Migrates, then serves as this very process (PID 1), so that signals arrive. Other commands of
# iris-api run as they are: `docker run iris-api migrate`.
set -eu
if [ "${1:-}" = serve ]; then
    iris-api migrate
fi
exec iris-api "$@"
