//go:build unix && !linux

package proc

import (
	"os/exec"
	"syscall"
)

// isolate makes the child a process group of its own, so that an interrupt at the terminal reaches only the driver,
// which stops the child.
func isolate(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
