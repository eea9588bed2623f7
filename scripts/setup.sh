#!/usr/bin/env bash
# Installs the programs that the tests and the demo use, where this is Debian and we are root; says what is missing
# elsewhere. With SHORT set it leaves the storage servers out. Quick when everything is there. Go itself and its modules are the go command's business.
set -euo pipefail

declare -A package=(
  [fusermount3]=fuse3 [getfattr]=attr [rsync]=rsync [sqlite3]=sqlite3 [git]=git [file]=file [tar]=tar [gcc]=gcc
  [openssl]=openssl [strace]=strace [setpriv]=util-linux [flock]=util-linux [python3]=python3 [mkfs.ext4]=e2fsprogs [vim]=vim [fuser]=psmisc [make]=make
)
# The servers that storage clients are tested against, and what the client of root:// is built with, by a file of each package.
# Apache's package is that of its programs alone: the one named apache2 would start it as a service. PostgreSQL, memcached and
# Python's venv are for a Rucio server.
lib=/usr/lib/$(uname -m)-linux-gnu
first() { [ ! -e "$1" ] || echo "$1"; } # of what a pattern gave
server=(
  nginx-light:/usr/sbin/nginx libnginx-mod-http-dav-ext:/usr/lib/nginx/modules/ngx_http_dav_ext_module.so apache2-bin:/usr/sbin/apache2
  xrootd-voms-plugins:"$lib/libXrdVoms-5.so"
  libxrootd-client-dev:/usr/include/xrootd/XrdCl/XrdClFile.hh xrootd-client:/usr/bin/xrdcp g++:/usr/bin/g++
  xrootd-server:/usr/bin/xrootd xrootd-server-plugins:"$lib/libXrdHttp-5.so" xrootd-scitokens-plugins:"$lib/libXrdAccSciTokens-5.so"
  globus-gridftp-server-progs:/usr/sbin/globus-gridftp-server globus-gass-copy-progs:/usr/bin/globus-url-copy
  voms-clients:/usr/bin/voms-proxy-fake
  python3-h5py:/usr/lib/python3/dist-packages/h5py/__init__.py python3-tables:/usr/lib/python3/dist-packages/tables/__init__.py
  postgresql:"$(first /usr/lib/postgresql/*/bin/postgres)" memcached:/usr/bin/memcached python3-venv:"$(first /usr/lib/python3.*/ensurepip/__init__.py)"
  gfal2-util-scripts:/usr/bin/gfal-copy python3-gfal2-util:/usr/lib/python3/dist-packages/gfal2_util/__init__.py
  gfal2-plugin-file:"$lib/gfal2-plugins/libgfal_plugin_file.so" gfal2-plugin-gridftp:"$lib/gfal2-plugins/libgfal_plugin_gridftp.so"
  gfal2-plugin-http:"$lib/gfal2-plugins/libgfal_plugin_http.so" gfal2-plugin-xrootd:"$lib/gfal2-plugins/libgfal_plugin_xrootd.so"
)
[ -z "${SHORT:-}" ] || server=()
optional=(strace mkfs.ext4 sqlite3 python3 vim fuser openssl) # their tests skip without them

missing=()
for p in "${!package[@]}"; do
  command -v "$p" >/dev/null || missing+=("$p")
done
for s in "${server[@]}"; do
  if [ ! -e "${s#*:}" ]; then
    missing+=("${s%%:*}") optional+=("${s%%:*}") package[${s%%:*}]=${s%%:*}
  fi
done

if ! command -v go >/dev/null; then
  echo "setup: Go is not installed: see https://go.dev/doc/install (go.mod names the version; any newer go command fetches it)" >&2
  exit 1
fi

if [ ${#missing[@]} -gt 0 ]; then
  packages=$(for p in "${missing[@]}"; do echo "${package[$p]}"; done | sort -u | tr '\n' ' ')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "setup: installing $packages"
    export DEBIAN_FRONTEND=noninteractive
    # No service is started: the tests start their own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
      trap "rm -f $policy" EXIT
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod +x $policy
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
  else
    needed=()
    for p in "${missing[@]}"; do
      [[ " ${optional[*]} " == *" $p "* ]] || needed+=("$p")
    done
    if [ ${#needed[@]} -gt 0 ]; then
      echo "setup: these programs are missing: ${needed[*]}" >&2
      echo "setup: as root: apt-get install $packages" >&2
      exit 1
    fi
    echo "setup: without ${missing[*]} some tests are skipped (as root: apt-get install $packages)"
  fi
fi

# S3 servers, of which Debian has no packages: built once (minutes), and kept in the user's cache, where
# backends/servertest looks for these versions. MinIO, which takes longest, is for LONG.
servers=${XDG_CACHE_HOME:-$HOME/.cache}/tarn/servers
build() { # NAME PACKAGE VERSION
  local at="$servers/$1@$3" tmp
  [ ! -x "$at/$1" ] || return 0
  mkdir -p "$servers"
  exec 9>"$servers/lock"
  flock 9
  if [ ! -x "$at/$1" ]; then
    echo "setup: building $1 $3, an S3 server for tests"
    tmp=$(mktemp -d "$servers/build.XXXXXX")
    if (cd / && GOBIN=$tmp GOFLAGS='' go install "$2@$3") 2>"$tmp/log"; then
      mkdir -p "$at"
      mv "$tmp/$1" "$at/$1"
    else
      tail -5 "$tmp/log" >&2
      echo "setup: without $1 the tests of it are skipped" >&2
    fi
    rm -rf "$tmp"
  fi
  exec 9>&-
}
[ -n "${SHORT:-}" ] || build versitygw github.com/versity/versitygw/cmd/versitygw v1.8.0
[ -z "${LONG:-}" ] || build minio github.com/minio/minio v0.0.0-20260212201848-7aac2a2c5b7c

# Rucio, from PyPI in environments of its own beside them, which scripts/rucio-up and the tests use.
rucio() {
  "$(dirname "$0")/rucio/venv.sh" "$1" >/dev/null || echo "setup: without Rucio $1 the tests of it are skipped" >&2
}
[ -n "${SHORT:-}" ] || rucio 38
[ -z "${LONG:-}" ] || rucio 41

if [ ! -e /dev/fuse ]; then
  echo "setup: there is no /dev/fuse: load the module with 'modprobe fuse', or give the container --device /dev/fuse --cap-add SYS_ADMIN" >&2
  exit 1
fi
