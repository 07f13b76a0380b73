//go:build !race

package sqlite

// raceDetector says that the program checks its pointers.
const raceDetector = false
