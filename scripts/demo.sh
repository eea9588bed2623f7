#!/usr/bin/env bash
# The main job of tarn, step by step, on a lake of its own in a temporary folder.
#   DATA=DIR   use the files below DIR; else real event lists where they are at hand, else made ones
#   KEEP=1     leave lake and mount for you to explore
set -euo pipefail
cd "$(dirname "$0")/.."
tarn=$PWD/bin/tarn
KEEP=${KEEP:-}
if [ -n "${DATA:-}" ] && [ ! -d "$DATA" ]; then
  echo "demo: DATA=$DATA is not a directory" >&2
  exit 2
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/tarn-demo.XXXXXX")
mnt=$work/mnt
export TARN_LAKE=$work/lake
cleanup() {
  local rc=$?
  trap - EXIT INT TERM
  if [ -n "$KEEP" ] && [ $rc = 0 ]; then
    exit 0
  fi
  if grep -qF " $mnt fuse.tarn " /proc/self/mounts 2>/dev/null; then
    "$tarn" umount -q "$mnt" || "$tarn" umount -q --now "$mnt" || fusermount3 -u -z "$mnt" || true
  fi
  [ $rc = 0 ] || tail -n 20 "$work/lake/run/tarn.log" 2>/dev/null || true
  rm -rf "$work"
  exit $rc
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; else bold='' dim='' off=''; fi
step=0
say() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" $step "$*" "$off"; }
note() { printf '   %s\n' "$*"; }
run() { # show a command, run it, and say how long it took
  local shown="${*//$work\//}"
  printf "   %s\$ %s%s\n" "$dim" "${shown//$tarn/tarn}" "$off"
  local t0=$EPOCHREALTIME
  "$@" 2>&1 | sed "s,$work/,,g; s/^/   /"
  note "${dim}took $(ms "$t0")$off"
}
ms() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { d = (b - a) * 1000; if (d < 1000) printf "%.0f ms", d; else printf "%.2f s", d / 1000 }'; }
bytes() { numfmt --to=iec --suffix=B "$1"; }
timed_read() { # path: reads it all, prints size, time and rate
  local t0=$EPOCHREALTIME n
  n=$(cat "$1" | wc -c)
  awk -v n="$n" -v a="$t0" -v b="$EPOCHREALTIME" -v s="$(bytes "$n")" 'BEGIN { d = b - a; printf "   read %s in %.0f ms (%.1f MB/s)\n", s, d * 1000, n / d / 1e6 }'
}
locality() { getfattr --only-values -n user.status "$1" 2>/dev/null || echo "?"; }
started=$EPOCHREALTIME

say "A lake: a catalogue, three disk storages, and a tape library with two drives"
run "$tarn" init --demo "$work/lake"
# A minute of the library's time takes a second, so that a recall can be seen; a library for real data takes minutes.
cat >"$work/lake/lake.local.yaml" <<Y
rses:
  - name: PIC-TAPE
    tape: {speed: 60x}
Y

say "Data"
if [ -n "${DATA:-}" ]; then
  data=$(cd "$DATA" && pwd); note "your files in $data"
elif [ -d ../shared/data/joint-crab ]; then
  data=$(cd ../shared/data/joint-crab && pwd); note "real event lists of the Crab nebula by MAGIC, FACT, VERITAS, H.E.S.S. and Fermi"
else
  data=$work/data; note "made event lists, valid FITS"
  run "$tarn" demo-data "$data" --files 60 --size 512KiB
fi
mapfile -t all < <(cd "$data" && find . -type f -size +8k -printf '%s %P\n' | sort -k1,1nr | cut -d' ' -f2-)
if [ ${#all[@]} -lt 2 ]; then
  echo "demo: $data holds fewer than two files above 8 KiB" >&2
  exit 2
fi
note "$(find "$data" -type f | wc -l) files, $(bytes "$(find "$data" -type f -printf '%s\n' | awk '{s += $1} END {print s + 0}')"), go to tape as the dataset /ctao/dl3/crab"
run "$tarn" import "$data" /ctao/dl3/crab --rse PIC-TAPE
note "and one of them lies on disk at PIC, too"
run "$tarn" import "$data/${all[0]}" /ctao/dl1/on-disk --rse PIC-DISK

say "Mount the lake"
mkdir "$mnt"
run "$tarn" mount "$work/lake" "$mnt"

say "List the tree with plain tools: sizes and times from the catalogue, no tape moves"
run ls -l "$mnt/ctao" "$mnt/ctao/dl3/crab"
run find "$mnt" -maxdepth 4 -type d
run du -sh "$mnt/ctao"
run df -h "$mnt"

disk_file=$mnt/ctao/dl1/on-disk
[ -d "$disk_file" ] && disk_file=$(find "$disk_file" -type f | head -n 1)
say "Read a file that is on disk at PIC"
note "$(basename "$disk_file") is $(locality "$disk_file")"
timed_read "$disk_file"

tape_file=$mnt/ctao/dl3/crab/${all[1]}
say "Read a file that is on tape only: the read waits for the recall"
note "${all[1]} is $(locality "$tape_file")"
timed_read "$tape_file" &
reader=$!
sleep 0.4
run "$tarn" recalls ls
wait $reader
note "now it is $(locality "$tape_file")"
cmp "$data/${all[1]}" "$tape_file" && note "every byte is the original's"

say "Read it again: from the hot cache, at the speed of the disk"
timed_read "$tape_file"

say "Write a new file: it becomes two verified replicas, one of them on tape"
new=$mnt/user.${USER:-$(id -un)}/result.fits
[ -d "$(dirname "$new")" ] || new=$mnt/ctao/dl3/result.fits
run cp "$data/${all[0]}" "$new"
last=''
for _ in $(seq 600); do
  now=$(getfattr --only-values -n user.tarn.state "$new" 2>/dev/null || true)
  if [ "$now" != "$last" ]; then
    note "$(printf '%-11s' "$now") $(getfattr --only-values -n user.tarn.durability "$new" 2>/dev/null || true)"
    last=$now
  fi
  [ "$now" = SAFE ] && break
  sleep 0.05
done
[ "$last" = SAFE ] || { echo "demo: the new file is not safe after a minute" >&2; exit 1; }
run "$tarn" replicas "$new"
run "$tarn" verify "$new"

say "Evict what the hot cache holds of the dataset: back to tape only"
run "$tarn" evict "$mnt/ctao/dl3/crab"
note "${all[1]} is $(locality "$tape_file")"

say "Recall the whole dataset with one bulk request, in tape order"
run "$tarn" stage --dry-run "$mnt/ctao/dl3/crab"
"$tarn" stage --wait "$mnt/ctao/dl3/crab" 2>&1 | sed 's/^/   /'
note "$(cd "$mnt/ctao/dl3/crab" && find . -type f -print0 | xargs -0 sha256sum | (cd "$data" && sha256sum --quiet -c -) && echo "every file read through the mount equals its original")"
run "$tarn" status "$mnt"

if [ -n "$KEEP" ]; then
  say "Yours to explore"
  note "the mount is $mnt, the lake is $work/lake"
  note "commands: export PATH=$PWD/bin:\$PATH; tarn help"
  note "when done: tarn umount $mnt && rm -r $work"
else
  say "Unmount: waits until all that was written is safe"
  run "$tarn" umount "$mnt"
fi

printf '\n%sDone in %s.%s A tree was listed without tape, a disk file read, a tape file recalled and then served from the\n' "$bold" "$(ms "$started")" "$off"
printf 'hot cache, a new file written, verified at two sites and put on tape, and a dataset recalled with one request.\n'
