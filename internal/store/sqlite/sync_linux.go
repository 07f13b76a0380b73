package sqlite

import (
	"os"
	"syscall"
)

// syncData makes what was written to f durable. The file's times may be lost, its length not.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}
