//go:build race

package sqlite

// raceDetector says that the program checks its pointers, and would take SQLite's reading of lists of arguments for a fault.
const raceDetector = true
