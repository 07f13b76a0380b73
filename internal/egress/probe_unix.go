//go:build unix

package egress

import (
	"errors"
	"net"
	"syscall"
)

// prober tells whether an idle connection still can be used.
type prober struct {
	raw    syscall.RawConn
	read   func(fd uintptr) bool
	silent bool
}

// watch sets the connection.
func (p *prober) watch(c net.Conn) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	p.raw = raw
	p.read = func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		p.silent = errors.Is(err, syscall.EAGAIN)
		return true
	}
}

// quiet tells that nothing came over the connection, not even its end. It does not wait. What was to be read is lost, for only a
// connection that is quiet is of use.
func (p *prober) quiet() bool {
	if p.raw == nil {
		return true
	}
	p.silent = false
	err := p.raw.Read(p.read)
	return err == nil && p.silent
}
