#!/usr/bin/env bash
# Makes .venv with everything the project needs, and goes to the repository's folder. To be sourced:
#   source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" [EXTRA ...]
# What is installed is reused until pyproject.toml or scripts/constraints.txt changes.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

focused_setup() {
  local extras="$*" stamp=.venv/installed wanted target=.
  wanted="$(cat pyproject.toml scripts/constraints.txt | cksum) $extras"
  [ -z "$extras" ] || target=".[${extras// /,}]"
  if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
    echo "setup: reusing .venv"
    return
  fi
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer: install one, or set PYTHON to it" >&2
    exit 2
  fi
  if command -v uv >/dev/null; then
    echo "setup: installing into .venv with uv (a few minutes the first time)"
    [ -x .venv/bin/python ] || uv venv --quiet --python "$python" .venv
    uv pip install --quiet --python .venv/bin/python \
      --constraint scripts/constraints.txt --editable "$target"
  else
    echo "setup: installing into .venv with pip (a few minutes the first time)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint scripts/constraints.txt --editable "$target"
  fi
  echo "$wanted" >>"$stamp"
}

focused_setup "$@"
export PATH="$PWD/.venv/bin:$PATH"
