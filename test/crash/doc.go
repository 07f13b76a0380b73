// Package crash holds no code. Its tests, behind the build tag crash, kill a server in every way a process can die, start it
// again on the same data file, and compare what clients were told, what destinations received and what the log says.
//
// They show what a killed process may do to the messages it had accepted: nothing but repeat the attempts that were running.
// They do not show what a power failure does: a killed process leaves behind everything that it wrote, synced or not.
//
//	go test -tags crash ./test/crash                                      all of it, in about four minutes
//	go test -tags crash ./test/crash -seed 7 -run TestQueues              what failed with that seed
//	go test -tags crash ./test/crash -soak 1h -run TestKill$ -timeout 0   the mixed load, with one seed after another
//
// A test that fails tells its seed and leaves its data file. A seed repeats what is planned: messages, destinations, kills. It
// does not repeat how the machine interleaves them.
package crash
