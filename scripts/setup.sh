#!/usr/bin/env bash
# Makes .venv with everything the project needs, and goes to the repository's folder. To be sourced:
#   source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" [--oldest] [EXTRA ...]
# --oldest makes .venv-oldest, where scripts/constraints-oldest.txt goes before constraints.txt.
# What is installed is reused until pyproject.toml or the versions change.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

focused_setup() {
  local venv=.venv versions target=. sum wanted
  versions=$(cat scripts/constraints.txt)
  if [ "${1:-}" = --oldest ]; then
    venv=.venv-oldest
    versions=$(awk -F== '!seen[$1]++' scripts/constraints-oldest.txt scripts/constraints.txt)
    shift
  fi
  local extras="$*" stamp=$venv/installed
  [ -z "$extras" ] || target=".[${extras// /,}]"
  sum=$(cat pyproject.toml - <<<"$versions" | cksum)
  wanted="$sum $extras"
  if [ -f "$stamp" ] && grep -qxF "$wanted" "$stamp"; then
    echo "setup: reusing $venv"
  else
    focused_install
    echo "$wanted" >>"$stamp"
  fi
  export PATH="$PWD/$venv/bin:$PATH"
}

focused_install() {
  local python=${PYTHON:-python3}
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer: install one, or set PYTHON to it" >&2
    exit 2
  fi
  if [ -f "$stamp" ]; then  # what other versions installed is no longer so
    sed -i.other "/^$sum /!d" "$stamp"
  fi
  if command -v uv >/dev/null; then
    echo "setup: installing into $venv with uv (a few minutes the first time)"
    [ -x $venv/bin/python ] || uv venv --quiet --python "$python" $venv
    echo "$versions" >$venv/constraints.txt
    uv pip install --quiet --python $venv/bin/python \
      --constraint $venv/constraints.txt --editable "$target"
  else
    echo "setup: installing into $venv with pip (a few minutes the first time)"
    [ -x $venv/bin/python ] || "$python" -m venv $venv
    echo "$versions" >$venv/constraints.txt
    $venv/bin/python -m pip install --quiet --disable-pip-version-check \
      --constraint $venv/constraints.txt --editable "$target"
  fi
}

focused_setup "$@"
