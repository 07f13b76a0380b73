//go:build !unix

package egress

import "net"

// prober tells whether an idle connection still can be used; here it cannot.
type prober struct{}

func (*prober) watch(net.Conn) {}

func (*prober) quiet() bool { return true }
