#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest.
#   ./scripts/test.sh [--oldest] [ARGUMENT ...]
# --oldest runs them with the oldest torch that pyproject.toml allows.
oldest=
if [ "${1:-}" = --oldest ]; then
  oldest=$1
  shift
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" $oldest test tensorboard
echo "test: running pytest"
exec python -m pytest "$@"
