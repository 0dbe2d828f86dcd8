#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test tensorboard
echo "test: running pytest"
exec python -m pytest "$@"
