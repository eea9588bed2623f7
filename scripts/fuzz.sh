#!/usr/bin/env bash
# Runs each fuzz target of the project for FUZZTIME; go test takes one target of one package at a time. Inputs are not
# made smaller: where that is under way at the end of the time, go test calls it a failure ("context deadline exceeded").
set -euo pipefail
go=${GO:-go}
time=${FUZZTIME:-3s}
n=0
for f in $(grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' backends cache cmd fs | sort); do
  for target in $(grep -oE '^func Fuzz[A-Za-z0-9_]+' "$f" | sed 's/func //'); do
    $go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "./$(dirname "$f")" | grep -E '^(ok|FAIL|---|panic)' || { echo "fuzz: $target in $f failed" >&2; exit 1; }
    n=$((n + 1))
  done
done
echo "fuzz: $n targets, $time each"
