package httpapi

import (
	"net/http"
	"strings"

	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/wire"
)

// Routes that the hosted service does not have.
var (
	usageRoute   = map[string]endpoint{http.MethodGet: {serve: usage}}
	hostsRoute   = map[string]endpoint{http.MethodGet: {serve: listHosts}}
	unblockRoute = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: unblockHost}}
)

func matchExt(path string) *route {
	word, rest, _ := strings.Cut(strings.TrimSuffix(path, "/"), "/")
	switch {
	case strings.EqualFold(word, wire.PathUsage) && rest == "":
		return &route{name: "/ext/usage", methods: usageRoute}
	case strings.EqualFold(word, wire.PathHosts) && rest == "":
		return &route{name: "/ext/hosts", methods: hostsRoute}
	case strings.EqualFold(word, wire.PathHosts):
		if host, action, ok := strings.Cut(rest, "/"); ok && strings.EqualFold(action, wire.PathUnblock) {
			return &route{name: "/ext/hosts/{host}/unblock", rest: host, methods: unblockRoute}
		}
	}
	return nil
}

func usage(c *call) error {
	u, err := c.h.broker.Usage(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendUsage(nil, u))
	return nil
}

func listHosts(c *call) error {
	hosts, err := c.h.broker.Hosts(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendHosts(nil, hosts))
	return nil
}

func unblockHost(c *call) error {
	host, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.UnblockHost(c.ctx(), c.who, host); err != nil {
		return err
	}
	return c.empty()
}
