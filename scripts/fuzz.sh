#!/usr/bin/env bash
# Runs each fuzz target of the project for FUZZTIME; go test takes one target of one package at a time. Inputs are not
# made smaller: where that is under way at the end of the time, go test calls it a failure ("context deadline exceeded").
set -euo pipefail
go=${GO:-go}
time=${FUZZTIME:-3s}
n=0
for f in $(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' backends cache cmd fs | sort); do
  for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$f" | sed 's/func //'); do
    out=$($go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "./$(dirname "$f")" 2>&1) || {
      # At the end of the time go test may take an input that is still being tried for a failure.
      if ! grep -q 'context deadline exceeded' <<<"$out" || grep -q 'Failing input' <<<"$out"; then
        echo "$out" >&2
        echo "fuzz: $target in $f failed" >&2
        exit 1
      fi
      out="ok  	$target (its time ended within an input)"
    }
    grep -E '^ok' <<<"$out" || true
    n=$((n + 1))
  done
done
echo "fuzz: $n targets, $time each"
