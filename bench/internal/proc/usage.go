package proc

import "time"

// Usage is what a tree of processes has used. A figure that the system does not tell is negative.
type Usage struct {
	// CPU is user and system time, of ended descendants too.
	CPU time.Duration
	// PeakMemory is the sum of the peaks of the resident sets, in bytes. Memory that processes share (as the buffers of
	// a database) counts once.
	PeakMemory int64
	// Written is the number of bytes handed to the block layer.
	Written int64

	// shared is the part of the resident set that is shared memory.
	shared int64
}

// Unknown is the usage of a process that cannot be read.
var Unknown = Usage{CPU: -1, PeakMemory: -1, Written: -1}

// Sub returns the usage since an earlier reading. The peak stays what it is.
func (u Usage) Sub(before Usage) Usage {
	d := Usage{CPU: -1, PeakMemory: u.PeakMemory, Written: -1}
	if u.CPU >= 0 && before.CPU >= 0 {
		d.CPU = u.CPU - before.CPU
	}
	if u.Written >= 0 && before.Written >= 0 {
		d.Written = u.Written - before.Written
	}
	return d
}
