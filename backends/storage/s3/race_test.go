//go:build race

package s3

// many is the length of a long listing: the race detector makes the parsing of XML many times as slow.
const many = 10_000
