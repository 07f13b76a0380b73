package proc

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ticks is the unit of the times in /proc/PID/stat; the kernel reports them in this unit on every architecture.
const ticks = 100

// Of returns the usage of processes and their descendants.
func Of(pids ...int) (Usage, error) {
	parents, err := readParents()
	if err != nil {
		return Unknown, err
	}
	var total Usage
	var shared int64 // the largest part of a process that others may share
	for pid := range parents {
		if !descends(pid, pids, parents) {
			continue
		}
		u, err := read(pid)
		if os.IsNotExist(err) {
			continue // it ended; its parent has its time
		}
		if err != nil {
			return Unknown, err
		}
		total.CPU += u.CPU
		total.PeakMemory += u.PeakMemory - u.shared
		shared = max(shared, u.shared)
		if u.Written < 0 || total.Written < 0 {
			total.Written = -1
		} else {
			total.Written += u.Written
		}
	}
	total.PeakMemory += shared
	for _, pid := range pids {
		if _, ok := parents[pid]; !ok {
			return Unknown, fmt.Errorf("process %d is gone", pid)
		}
	}
	return total, nil
}

// Busy returns the time for which the processors of the machine have not been idle, or were not to be had because the
// machine is virtual and its host had other work.
func Busy() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return -1
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	if len(fields) < 9 {
		return -1
	}
	var busy time.Duration
	for i, f := range fields[1:9] {
		if i == 3 || i == 4 {
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return -1
		}
		busy += time.Duration(n) * time.Second / ticks
	}
	return busy
}

// descends reports whether pid is one of roots or has one of them as an ancestor.
func descends(pid int, roots []int, parents map[int]int) bool {
	for steps := 0; pid > 1 && steps < 64; steps++ {
		if slices.Contains(roots, pid) {
			return true
		}
		pid = parents[pid]
	}
	return false
}

// readParents returns the parent of every process.
func readParents() (map[int]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parents := make(map[int]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fields, err := stat(pid)
		if err != nil {
			continue
		}
		parents[pid], _ = strconv.Atoi(fields[1])
	}
	return parents, nil
}

// stat returns the fields of /proc/PID/stat from the third, the state, on.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// The second field, the name in parentheses, may hold anything, parentheses too.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("process %d: unknown form of stat", pid)
	}
	return fields, nil
}

func read(pid int) (Usage, error) {
	fields, err := stat(pid)
	if err != nil {
		return Unknown, err
	}
	var u Usage
	for _, f := range fields[11:15] { // utime, stime, and those of ended children
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return Unknown, fmt.Errorf("process %d: %w", pid, err)
		}
		u.CPU += time.Duration(n) * time.Second / ticks
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Unknown, err
	}
	if kib := field(status, "VmHWM:"); kib > 0 {
		u.PeakMemory = kib << 10
	}
	if kib := field(status, "RssShmem:"); kib > 0 {
		u.shared = kib << 10
	}
	// A process of another user shows no io.
	u.Written = -1
	if io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)); err == nil {
		u.Written = field(io, "write_bytes:")
	}
	return u, nil
}

// field returns the number after the line prefix name, or -1.
func field(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err == nil {
				return n
			}
		}
	}
	return -1
}
