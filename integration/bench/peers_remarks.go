package main

import "strings"

// peerRemark is a known reason why tarn is behind a peer in rows that begin so; without a
// peer it is tarn's own cost, whoever is ahead. What it says of a peer stands in that
// peer's documentation or source.
type peerRemark struct{ row, peer, why string }

// peerRemarks: the first that fits counts.
var peerRemarks = []peerRemark{
	{"sequential write", "rclone", "its mount's fsync does nothing (cmd/mount/file.go: \"we don't do anything except return OK\"); tarn's bytes are checksummed and on stable storage"},
	{"sequential write", "JuiceFS", "its fsync writes objects to this folder without a sync of them (pkg/object/file.go, Put); tarn's bytes are checksummed and on stable storage"},
	{"sequential write", "davfs2", "its fsync leaves the file in its cache, and the server gets it ten seconds after close (davfs2.conf, delay_upload); tarn's bytes are checksummed and on stable storage"},
	{"sequential write", "s3fs", "its fsync sends the file to a server that does not sync it; tarn's bytes are checksummed and on stable storage"},
	{"sequential write", "", "all bytes are checksummed and on stable storage when fsync returns"},
	{"create", "rclone", "its close writes to the page cache alone, its upload comes --vfs-write-back later; tarn's close syncs file and journal"},
	{"create", "davfs2", "its close writes to the page cache alone, its upload comes ten seconds later (davfs2.conf, delay_upload); tarn's close syncs file and journal"},
	{"create", "JuiceFS", "its close commits metadata but syncs no object (pkg/object/file.go, Put); tarn's close syncs file and journal"},
	{"create", "", "tarn's close returns when file and journal are on stable storage"},
	{"open, read", "davfs2", "it leaves an opened file to the kernel's page cache and looks for changes once in a second (davfs2.conf, file_refresh); tarn decides at each open whether the whole file is here and verified"},
	{"open, read", "", "each open and release is a request to the daemon, which decides whether the whole file is here and verified"},
	{"find", "", "each folder is opened and its entries come from the catalogue's database"},
	{"ls -lR", "", "each folder is opened and its entries come from the catalogue's database; ls asks for extended attributes, which a peer that has none refuses once"},
	{"warm", "", "both sides read the kernel's page cache; what differs is the disturbance of the run"},
	{"page cache cold", "", "both sides read this disk; what differs is the disturbance of the run"},
	{"random 4 KiB reads", "", "tarn asks the server for each 4 KiB alone, a request each, and they pass its daemon, which could turn to another replica and compares them when the file is fetched whole"},
	{"nothing cached: first", "", "a block is fetched whole and verified before a byte of it is given"},
	{"nothing cached: whole", "xrootdfs", "it keeps nothing; tarn writes the bytes to its cache and verifies the whole file before its last bytes are given"},
	{"nothing cached: whole", "", "tarn writes the bytes to its cache and verifies the whole file before its last bytes are given"},
	{"nothing cached: 4 KiB", "", "the block around it is fetched whole and verified before a byte of it is given"},
}

// remark is why tarn is behind that peer in that row.
func remark(row, peer string) string {
	for _, r := range peerRemarks {
		if strings.HasPrefix(row, r.row) && strings.HasPrefix(peer, r.peer) {
			return r.why
		}
	}
	return "no reason is known"
}
