//go:build !race

package webdav

// many is the length of a long listing.
const many = 100_000
