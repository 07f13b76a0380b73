package egress_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// dnsServer is a name server on a UDP port of the loopback. It knows what its zone holds, and can change its mind
// between two questions.
type dnsServer struct {
	addr string

	mu      sync.Mutex
	zone    map[string][]netip.Addr // by name without the trailing dot
	failing bool                    // answers SERVFAIL
}

// newDNSServer starts a server that stops with the test.
func newDNSServer(tb testing.TB) *dnsServer {
	tb.Helper()
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(tb.Context(), "udp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &dnsServer{addr: conn.LocalAddr().String(), zone: map[string][]netip.Addr{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	tb.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
	return s
}

// set makes name stand for addrs.
func (s *dnsServer) set(name string, addrs ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone[name] = nil
	for _, addr := range addrs {
		s.zone[name] = append(s.zone[name], netip.MustParseAddr(addr))
	}
}

func (s *dnsServer) fail(failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = failing
}

// resolver returns a resolver that asks s and no other server.
func (s *dnsServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp4", s.addr)
	}}
}

// answer replies to a query with one question (RFC 1035, section 4).
func (s *dnsServer) answer(query []byte) []byte {
	const header = 12
	if len(query) < header {
		return nil
	}
	var labels []string
	i := header
	for i < len(query) && query[i] != 0 {
		end := i + 1 + int(query[i])
		if end > len(query) {
			return nil
		}
		labels = append(labels, string(query[i+1:end]))
		i = end
	}
	if i+5 > len(query) {
		return nil
	}
	question := query[header : i+5]
	kind := binary.BigEndian.Uint16(query[i+1:])

	s.mu.Lock()
	addrs, known := s.zone[strings.ToLower(strings.Join(labels, "."))]
	failing := s.failing
	s.mu.Unlock()

	var records [][]byte
	for _, addr := range addrs {
		if addr.Is4() && kind == 1 || addr.Is6() && kind == 28 {
			records = append(records, addr.AsSlice())
		}
	}
	code := uint16(0)
	switch {
	case failing:
		code, records = 2, nil // SERVFAIL
	case !known:
		code = 3 // NXDOMAIN
	}
	msg := append([]byte(nil), query[:2]...)
	msg = binary.BigEndian.AppendUint16(msg, 0x8580|code) // an authoritative answer
	msg = binary.BigEndian.AppendUint16(msg, 1)
	msg = binary.BigEndian.AppendUint16(msg, uint16(len(records)))
	msg = append(msg, 0, 0, 0, 0)
	msg = append(msg, question...)
	for _, r := range records {
		msg = append(msg, 0xc0, header) // the name of the question
		msg = binary.BigEndian.AppendUint16(msg, kind)
		msg = append(msg, 0, 1, 0, 0, 0, 0) // class IN, time to live 0
		msg = binary.BigEndian.AppendUint16(msg, uint16(len(r)))
		msg = append(msg, r...)
	}
	return msg
}
