//go:build crash

package crash

import (
	"os/exec"
	"syscall"
)

// bind has the child end with the tests, should these be killed themselves.
func bind(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
