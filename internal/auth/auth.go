// Package auth tells who makes a request: it finds the bearer token, looks up its tenant and scope, and says what the scope
// allows. It also decides which address the request came from.
package auth

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/directory"
)

// Action is what a request wants to do, as far as scopes are concerned.
type Action uint8

// The actions.
const (
	Read    Action = iota // change nothing
	Publish               // publish, enqueue or batch
	Manage                // change anything else
)

// Authenticator authenticates requests.
type Authenticator struct {
	dir *directory.Directory
}

// New returns an Authenticator over a directory.
func New(dir *directory.Directory) *Authenticator { return &Authenticator{dir: dir} }

// Authenticate returns the principal of a token for an action. A publishing action is carried out by an operation that names
// the version of the configuration, so for it the cached state will do.
func (a *Authenticator) Authenticate(ctx context.Context, token string, action Action) (*directory.Principal, error) {
	if token == "" {
		return nil, posthaste.Errorf(posthaste.CodeUnauthorized, "unable to authenticate: missing token")
	}
	t, tenant, err := a.dir.Authenticate(ctx, token, action != Publish)
	if errors.Is(err, directory.ErrUnknownToken) {
		return nil, posthaste.Errorf(posthaste.CodeUnauthorized, "unable to authenticate: invalid token")
	}
	if err != nil {
		return nil, err
	}
	switch {
	case t.Scope == directory.ScopeRead && action != Read:
		return nil, posthaste.Errorf(posthaste.CodeForbidden, "the token is read-only")
	case t.Scope == directory.ScopePublish && action != Publish:
		return nil, posthaste.Errorf(posthaste.CodeForbidden, "the token can only publish")
	}
	return &directory.Principal{Token: t, Tenant: tenant}, nil
}

// Bearer returns the token of an Authorization header; ok is false if it has none.
func Bearer(header string) (token string, ok bool) {
	const prefix = "bearer "
	if len(header) < len(prefix) || !strings.EqualFold(header[:len(prefix)], prefix) {
		return "", false
	}
	return strings.TrimSpace(header[len(prefix):]), true
}

// Caller returns the address a request came from: that of the peer, or the first one of X-Forwarded-For if the peer is a
// trusted proxy. IPv4-mapped addresses are shown as IPv4.
func Caller(remote, forwardedFor string, trusted []netip.Prefix) string {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	peer := ap.Addr().Unmap()
	if forwardedFor != "" {
		for _, p := range trusted {
			if !p.Contains(peer) {
				continue
			}
			first, _, _ := strings.Cut(forwardedFor, ",")
			if addr, err := netip.ParseAddr(strings.TrimSpace(first)); err == nil {
				return addr.Unmap().WithZone("").String()
			}
			break
		}
	}
	return peer.WithZone("").String()
}
