package main

import "strings"

// demoMark begins the lake file of the demonstration.
const demoMark = "# The lake of tarn's demonstration"

// newLakeFile is the text of a new lake.yaml.
func newLakeFile(name, scope string, demo bool) string {
	head, storages, scopes, rules, sizes := plainHead, plainStorages, plainScopes, plainRules, plainSizes
	if demo {
		head, storages, scopes, rules, sizes = demoMark+demoHead, demoStorages, demoScopes, demoRules, demoSizes
	}
	return strings.NewReplacer("NAME", name, "SCOPE", scope).Replace(head + lakeHead + storages + scopes + rules + sizes + lakeTail)
}

const plainHead = "# A lake of tarn"

const demoHead = ": three disks and an emulated tape library"

const lakeHead = `.
#
# Every key has a default but these: rses and scopes. ` + "`tarn config keys`" + ` lists all, ` + "`tarn config check`" + `
# reports every fault at once. Relative paths are meant from this folder. Sizes are 10G or
# 64MiB, times 1h30m or 7d. What stands in lake.local.yaml beside this file overrides it.

name: NAME

`

const plainStorages = `# The storages. A replica is one copy of a file at one of them. Attributes are free words, which
# rules ask for. For tape see ` + "`tarn init --demo`" + `.
rses:
  - name: LOCAL-DISK
    kind: disk
    path: rse/LOCAL-DISK
    attributes: {country: ES}

`

const plainScopes = `# The top folders of the lake.
scopes:
  - name: SCOPE

`

const plainRules = `# How many copies a new file gets, and where; the first one's are made first.
write_rules:
  - {copies: 1, expression: rse_type=DISK}

`

const plainSizes = `# The hot cache: local copies that are read from. limit is hard and counts unsent files, too.
cache:
  path: cache
  limit: 10G
  free_floor: 1G

catalogue:
  path: catalogue
  grace: 1d          # replaced and removed files can be undeleted for so long

`

const demoStorages = `# The storages. A replica is one copy of a file at one of them. Attributes are free words, which
# rules ask for.
rses:
  - name: LAPALMA-DISK
    kind: disk
    path: rse/LAPALMA-DISK
    attributes: {country: ES}
  - name: PIC-DISK
    kind: disk
    path: rse/PIC-DISK
    attributes: {country: ES}
    distance: 1
  - name: CNAF-DISK
    kind: disk
    path: rse/CNAF-DISK
    attributes: {country: IT}
    distance: 2
  - name: PIC-TAPE
    kind: tape
    path: rse/PIC-TAPE
    attributes: {country: ES}
    distance: 3
    tape:
      drives: 2
      cartridges: 8
      cartridge_size: 100G
      buffer: 2G       # the disk in front of the drives
      speed: 1000x     # real time: 1x

`

const demoScopes = `# The top folders of the lake. Below ctao stand dl0, dl1 and dl3.
scopes:
  - name: ctao
  - name: SCOPE

`

const demoRules = `# Where the copies of a new file go: 1 copy on disk at country=ES and 1 copy on tape.
write_rules:
  - {copies: 1, expression: country=ES&rse_type=DISK}
  - {copies: 1, expression: rse_type=TAPE}

`

const demoSizes = `# The hot cache: local copies that are read from. limit is hard and counts unsent files, too.
# head and tail, the first and last bytes of each file, stay when the rest goes back to tape, so
# that header readers need no recall. Here they are small, as the files of a demonstration are,
# but as much as the kernel reads ahead of who wants one block; the default is 1M each, with blocks
# of 1M.
cache:
  path: cache
  limit: 2G
  free_floor: 256M
  block: 4K
  head: 16K
  tail: 1K

catalogue:
  path: catalogue
  grace: 1d          # replaced and removed files can be undeleted for so long
  cache: 16M
  free_floor: 64M

`

const lakeTail = `# What was written here and is not yet safe elsewhere.
journal:
  path: journal
  delay: 1s          # between close and upload
  close: local       # close(2) returns when the file is safe on the local disk; fast, remote, registered

# Reading from tape. The policy protects it from what touches many files by accident.
recalls:
  hold: 200ms        # recalls that come within become one request
  timeout: 1d
  policy:
    nonblock: resident   # open with O_NONBLOCK serves what is here; eagain refuses

mount:
  allow_other: false
  delete: true       # rm is allowed

log:
  level: info
`
