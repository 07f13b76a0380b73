//go:build unix

package proc

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// ids returns the numbers of a user.
func ids(name string) (uid, gid uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, err
	}
	id, errUID := strconv.ParseUint(u.Uid, 10, 32)
	group, errGID := strconv.ParseUint(u.Gid, 10, 32)
	if errUID != nil || errGID != nil {
		return 0, 0, fmt.Errorf("user %s has no numeric ids", name)
	}
	return uint32(id), uint32(group), nil
}

// Own gives a directory to the named user.
func Own(dir, name string) error {
	uid, gid, err := ids(name)
	if err != nil {
		return err
	}
	return os.Chown(dir, int(uid), int(gid))
}

// runAs makes cmd run as the named user, unless the name is empty.
func runAs(cmd *exec.Cmd, name string) error {
	if name == "" {
		return nil
	}
	uid, gid, err := ids(name)
	if err != nil {
		return err
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	return nil
}

func terminate(cmd *exec.Cmd) { _ = cmd.Process.Signal(syscall.SIGTERM) }

// kill kills the process group of cmd.
func kill(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
