# Drives a demo lake for fault scripts that are written against any file system. They source
# this file with A_DIR, a folder of their own, and call:
#   fs_up        start the daemon and mount; sets MNT, PID and CACHE. Does nothing when it is up.
#   fs_kill      kill -9 of the daemon; the dead mount is left for the next fs_up to take away
#   fs_down      unmount as a user does
#   fs_settle S  wait up to S seconds until every file is safe at its storages
#   remote_cat P print the bytes of P as they lie at a disk storage, not through the mount
# LIMITED_BY is a command put before the daemon ("prlimit --nofile=64"), TARN the program,
# bin/tarn without it. State lies in A_DIR only; the mountpoint stands beside it, because
# A_DIR is closed to everybody else and users of the mount must reach it.
TARN=${TARN:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/bin/tarn}
LAKE=$A_DIR/lake; MNT=$A_DIR.mnt; CACHE=$LAKE; PID=
export TARN_LAKE=$LAKE
chmod 700 "$A_DIR"
fs_up() {
 [ -n "$PID" ] && kill -0 "$PID" 2>/dev/null && return 0
 mkdir -p "$MNT" 2>/dev/null # fails over a dead mount, which the daemon repairs
 [ -e "$LAKE/lake.yaml" ] || (umask 077; "$TARN" init --demo "$LAKE" >>"$A_DIR/daemon.log" 2>&1) || return 1
 ${LIMITED_BY:-} "$TARN" mount -f --supervise=false "$LAKE" "$MNT" -o allow_other >>"$A_DIR/daemon.log" 2>&1 & PID=$!; disown $PID
 chmod 600 "$A_DIR/daemon.log"
 for _ in $(seq 200); do
  cat "$MNT/.tarn/stats" >/dev/null 2>&1 && return 0 # neither in a dead mount nor in the folder below it
  kill -0 $PID 2>/dev/null || return 1
  sleep .05
 done
 return 1
}
fs_kill() { kill -9 "$PID" 2>/dev/null; while kill -0 "$PID" 2>/dev/null; do sleep .02; done; PID=; }
fs_down() {
 "$TARN" umount --now --force "$MNT" >>"$A_DIR/daemon.log" 2>&1 || { kill -9 "$PID" 2>/dev/null; fusermount3 -uz "$MNT" 2>/dev/null; }
 for _ in $(seq 100); do kill -0 "$PID" 2>/dev/null || break; sleep .05; done
 PID=; rmdir "$MNT" 2>/dev/null; true
}
fs_settle() { local end=$((SECONDS+$1)); while [ $SECONDS -le $end ]; do [ -z "$("$TARN" uploads ls --json | grep -v '"state":"ABANDONED"')" ] && return 0; sleep .2; done; return 1; }
remote_cat() {
 local pfn; pfn=$("$TARN" replicas --json "/$1" | sed -n 's/.*"rse":"LAPALMA-DISK".*"state":"AVAILABLE".*"pfn":"\([^"]*\)".*/\1/p')
 [ -n "$pfn" ] && cat "$LAKE/rse/LAPALMA-DISK/$pfn"
}
