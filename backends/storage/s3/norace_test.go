//go:build !race

package s3

// many is the length of a long listing.
const many = 100_000
