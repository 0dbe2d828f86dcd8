#!/usr/bin/env bash
# Sets up and runs the tests, in two processes side by side; arguments go to pytest, then in one.
#   ./scripts/test.sh [--oldest] [ARGUMENT ...]
# --oldest runs them with the oldest torch that pyproject.toml allows.
oldest=
if [ "${1:-}" = --oldest ]; then
  oldest=$1
  shift
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" $oldest test tensorboard
if [ $# -gt 0 ]; then
  echo "test: running pytest"
  exec python -m pytest "$@"
fi
echo "test: running pytest, twice side by side: the half with the stages is shown at the end"
shown=$(mktemp)
python -m pytest tests/detect tests/pretrain tests/test_*.py >"$shown" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null || :; rm -f "$shown"' EXIT
failed=0
python -m pytest tests/common tests/scripts || failed=$?
wait "$other" || failed=$?
cat "$shown"
exit "$failed"
