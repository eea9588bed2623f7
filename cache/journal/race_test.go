//go:build race

package journal

// raceDetector: limits of time are not held to.
const raceDetector = true
