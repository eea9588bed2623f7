#!/usr/bin/env bash
# venv.sh VERSION [PREFIX]: prints the virtual environment of Rucio's line VERSION (38 or 41) below PREFIX, the user's cache
# where none is given, after making it where it is missing or of other packages. With CHECK set it makes none, and fails.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=$1
prefix=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/tarn/servers}
list=$here/requirements-$version.txt
[ -e "$list" ] || { echo "rucio: there is no line $version: 38 or 41" >&2; exit 2; }
venv=$prefix/rucio@$version
have() { cmp -s "$list" "$venv/requirements.txt"; } # it is written last
if ! have; then
  [ -z "${CHECK:-}" ] || { echo "rucio: $venv is missing or not up to date: scripts/rucio/venv.sh $version makes it (make setup)" >&2; exit 1; }
  python=/usr/bin/python3 # Debian's, which python3-venv is for; it stays when others come and go
  [ -x "$python" ] || python=python3
  mkdir -p "$prefix"
  exec 9>"$prefix/lock"
  flock 9
  if ! have; then
    echo "rucio: installing $(sed -n 's/^rucio==/Rucio /p' "$list") in $venv" >&2
    rm -rf "$venv"
    log=$(mktemp)
    if ! { "$python" -m venv "$venv" && "$venv/bin/pip" install -q --no-deps --no-compile --disable-pip-version-check -r "$list"; } >"$log" 2>&1; then
      tail -5 "$log" >&2
      rm -rf "$venv" "$log"
      echo "rucio: the virtual environment could not be made (Debian: package python3-venv, and a way to PyPI)" >&2
      exit 1
    fi
    rm -f "$log"
    "$venv/bin/python" -m compileall -q -j 2 "$venv/lib" >/dev/null 2>&1 || true # else each start does it, where PYTHONDONTWRITEBYTECODE is set
    cp "$list" "$venv/requirements.txt"
  fi
  exec 9>&-
fi
echo "$venv"
