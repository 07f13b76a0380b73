package console

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/activity"
	"github.com/posthaste/posthaste/internal/directory"
	"github.com/posthaste/posthaste/internal/wire"
)

// looks reports whether the visitor may see things.
func (c *call) looks() bool { return c.scope() != directory.ScopePublish }

// every is how often pages about configuration look for something new.
const every = 2 * time.Second

// queues.

type queuesData struct {
	Queues []*posthaste.Queue
	Curl   string
}

func (h *Handler) queues(c *call) (*view, error) {
	list, err := h.broker.Queues(c.ctx(), c.who)
	if err != nil {
		return nil, err
	}
	in := input{Kind: "queue", Queue: "emails", Destination: "https://example.com/", Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON}
	return &view{
		page: "queues", title: "Queues", nav: "queues", data: queuesData{list, in.curl(c.base(), c.shownToken())},
		live: []string{"queues-table"}, every: every,
	}, nil
}

// atLeastOne reads a whole number from a form; empty: nil.
func atLeastOne(what, s string) (*int, error) {
	if s = strings.TrimSpace(s); s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return nil, posthaste.Errorf(posthaste.CodeInvalid, "%s: %q is not a whole number from 1", what, s)
	}
	return &n, nil
}

func (h *Handler) putQueue(c *call) error {
	name := strings.TrimSpace(c.r.Form.Get("name"))
	n, err := atLeastOne("parallelism", c.r.Form.Get("parallelism"))
	if err != nil {
		return err
	}
	if err := h.broker.UpsertQueue(c.ctx(), c.who, wire.QueueUpsert{Name: name, Parallelism: n}); err != nil {
		return err
	}
	return c.done(Prefix+"queues", "Queue "+name+" is set.")
}

func (h *Handler) pauseQueue(c *call) error {
	name, paused := c.r.Form.Get("name"), c.r.Form.Get("paused") == "true"
	if err := h.broker.PauseQueue(c.ctx(), c.who, name, paused); err != nil {
		return err
	}
	if paused {
		return c.done(Prefix+"queues", "Queue "+name+" is paused. Attempts that run are finished; nothing else starts.")
	}
	return c.done(Prefix+"queues", "Queue "+name+" goes on.")
}

func (h *Handler) deleteQueue(c *call) error {
	name := c.r.Form.Get("name")
	if err := h.broker.DeleteQueue(c.ctx(), c.who, name); err != nil {
		return err
	}
	return c.done(Prefix+"queues", "Queue "+name+" is deleted, and what waited in it is canceled.")
}

// Flow control.

type flowData struct {
	Keys   []*posthaste.FlowKey
	Search string
	Curl   string
	More   int // keys that are not shown
}

// maxFlowKeys bounds the keys on a page.
const maxFlowKeys = 200

func (h *Handler) flow(c *call) (*view, error) {
	search := c.r.URL.Query().Get("search")
	keys, err := h.broker.FlowKeys(c.ctx(), c.who, search)
	if err != nil {
		return nil, err
	}
	d := flowData{Keys: keys, Search: search}
	if len(keys) > maxFlowKeys {
		d.Keys, d.More = keys[:maxFlowKeys], len(keys)-maxFlowKeys
	}
	in := input{
		Kind: "url", Destination: "https://example.com/", Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON,
		FlowKey: "user-42", Rate: "10", Period: "1m", Parallelism: "2",
	}
	d.Curl = in.curl(c.base(), c.shownToken())
	return &view{page: "flow", title: "Flow control", nav: "flow", data: d, live: []string{"flow-table"}, every: every}, nil
}

func (h *Handler) editFlow(c *call) error {
	f, ctx := c.r.Form, c.ctx()
	key := f.Get("key")
	if err := wire.CheckText(key); err != nil || key == "" {
		return posthaste.Errorf(posthaste.CodeInvalid, "name the flow-control key")
	}
	var err error
	text := ""
	switch f.Get("action") {
	case wire.PathPause:
		err, text = h.broker.PauseFlow(ctx, c.who, key, true), "Flow-control key "+key+" is paused."
	case wire.PathResume:
		err, text = h.broker.PauseFlow(ctx, c.who, key, false), "Flow-control key "+key+" goes on."
	case wire.PathPin:
		q := url.Values{}
		for _, name := range []string{"parallelism", "rate", "period"} {
			if v := strings.TrimSpace(f.Get(name)); v != "" {
				q.Set(name, v)
			}
		}
		var pin wire.Pin
		if pin, err = wire.ParsePin(q.Encode()); err == nil {
			err, text = h.broker.PinFlow(ctx, c.who, key, pin), "The limits of "+key+" are pinned: messages do not change them any more."
		}
	case wire.PathUnpin:
		err, text = h.broker.UnpinFlow(ctx, c.who, key, wire.Unpin{Parallelism: true, Rate: true}), "The limits of "+key+" are unpinned: the next message sets them."
	case wire.PathResetRate:
		err, text = h.broker.ResetFlowRate(ctx, c.who, key), "The period of "+key+" begins anew."
	default:
		err = posthaste.Errorf(posthaste.CodeInvalid, "there is no such action")
	}
	if err != nil {
		return err
	}
	return c.done(Prefix+"flow", text)
}

// Hosts.

func (h *Handler) hosts(c *call) (*view, error) {
	list, err := h.broker.Hosts(c.ctx(), c.who)
	if err != nil {
		return nil, err
	}
	return &view{page: "hosts", title: "Hosts", nav: "hosts", data: list, live: []string{"hosts-table"}, every: every}, nil
}

func (h *Handler) unblockHost(c *call) error {
	name := c.r.Form.Get("name")
	if err := h.broker.UnblockHost(c.ctx(), c.who, name); err != nil {
		return err
	}
	return c.done(Prefix+"hosts", "Messages to "+name+" are delivered again.")
}

// URL groups.

type endpointData struct {
	posthaste.Endpoint
	Health activity.Endpoint
	Level  string // good, warn, bad; empty: nothing was delivered to it
}

type groupData struct {
	*posthaste.URLGroup
	Endpoints []endpointData
	Defaults  []pair
}

type groupsData struct {
	Groups []groupData
	Curl   string
}

func (h *Handler) groups(c *call) (*view, error) {
	list, err := h.broker.Groups(c.ctx(), c.who)
	if err != nil {
		return nil, err
	}
	d := groupsData{}
	for _, g := range list {
		gd := groupData{URLGroup: g, Defaults: pairs(g.Defaults)}
		for _, e := range g.Endpoints {
			ed := endpointData{Endpoint: e, Health: h.activity.Endpoint(c.who.Tenant.ID, g.Name, e.URL)}
			switch n, ok := ed.Health.Attempts, ed.Health.Delivered; {
			case n == 0:
			case ok == 0:
				ed.Level = "bad"
			case ok < n:
				ed.Level = "warn"
			default:
				ed.Level = "good"
			}
			gd.Endpoints = append(gd.Endpoints, ed)
		}
		d.Groups = append(d.Groups, gd)
	}
	in := input{Kind: "group", Destination: "signups", Body: `{"hello": "world"}`, ContentType: wire.ContentTypeJSON}
	d.Curl = in.curl(c.base(), c.shownToken())
	return &view{page: "groups", title: "URL groups", nav: "groups", data: d, live: []string{"groups-list"}, every: every}, nil
}

func (h *Handler) addEndpoint(c *call) error {
	f := c.r.Form
	name, e := strings.TrimSpace(f.Get("name")), posthaste.Endpoint{Name: strings.TrimSpace(f.Get("endpoint")), URL: strings.TrimSpace(f.Get("url"))}
	if err := wire.CheckURLText(e.URL); err != nil {
		return posthaste.Errorf(posthaste.CodeInvalid, "URL: %v", err)
	}
	if err := h.broker.AddEndpoints(c.ctx(), c.who, name, []posthaste.Endpoint{e}); err != nil {
		return err
	}
	return c.done(Prefix+"groups", e.URL+" is in the group "+name+".")
}

func (h *Handler) removeEndpoint(c *call) error {
	name, e := c.r.Form.Get("name"), posthaste.Endpoint{URL: c.r.Form.Get("url")}
	if err := h.broker.RemoveEndpoints(c.ctx(), c.who, name, []posthaste.Endpoint{e}); err != nil {
		return err
	}
	return c.done(Prefix+"groups", e.URL+" is no longer in the group "+name+".")
}

func (h *Handler) deleteGroup(c *call) error {
	name := c.r.Form.Get("name")
	if err := h.broker.DeleteGroup(c.ctx(), c.who, name); err != nil {
		return err
	}
	return c.done(Prefix+"groups", "URL group "+name+" is deleted.")
}

// Signing keys.

func (h *Handler) keys(c *call) (*view, error) {
	keys, err := h.broker.Keys(c.ctx(), c.who)
	if err != nil {
		return nil, err
	}
	return &view{page: "keys", title: "Signing keys", nav: "keys", data: keys}, nil
}

func (h *Handler) rotateKeys(c *call) error {
	if c.r.Form.Get("sure") == "" {
		return posthaste.Errorf(posthaste.CodeInvalid, "confirm that your receivers know both keys")
	}
	if _, err := h.broker.RotateKeys(c.ctx(), c.who); err != nil {
		return err
	}
	return c.done(Prefix+"keys", "The keys were rotated. Give your receivers the new pair before the next rotation.")
}

// Tokens.

type tokenData struct {
	directory.Token
	Own bool // the one the visitor signed in with
}

type tokensData struct {
	Tokens []tokenData
	Made   string // just created; it is shown once
	Name   string
	Scopes []choice
}

func (c *call) tokensView() (*view, tokensData, error) {
	list, err := c.h.admin.Tokens(c.ctx(), c.who.Tenant.ID)
	if err != nil {
		return nil, tokensData{}, err
	}
	d := tokensData{Scopes: []choice{
		{string(directory.ScopeFull), "full: everything", true},
		{string(directory.ScopeRead), "read: look, change nothing", false},
		{string(directory.ScopePublish), "publish: publish, enqueue and batch only", false},
	}}
	for _, t := range list {
		d.Tokens = append(d.Tokens, tokenData{t, t.Hash == c.who.Token.Hash})
	}
	return &view{page: "tokens", title: "Tokens", nav: "tokens"}, d, nil
}

func (h *Handler) tokens(c *call) (*view, error) {
	v, d, err := c.tokensView()
	if err == nil {
		v.data = d
	}
	return v, err
}

// createToken answers with the page itself: a redirect would need the token to be kept somewhere.
func (h *Handler) createToken(c *call) error {
	name := strings.TrimSpace(c.r.Form.Get("name"))
	if err := wire.CheckText(name); err != nil || name == "" {
		return posthaste.Errorf(posthaste.CodeInvalid, "give the token a name, by which you will know it again")
	}
	made, err := h.admin.CreateToken(c.ctx(), c.who.Tenant.ID, name, directory.Scope(c.r.Form.Get("scope")), "")
	if err != nil {
		return err
	}
	v, d, err := c.tokensView()
	if err != nil {
		return err
	}
	d.Made, d.Name = made, name
	v.data, v.status = d, http.StatusOK
	c.render(v)
	return nil
}

func (h *Handler) revokeToken(c *call) error {
	hash := c.r.Form.Get("hash")
	if hash == c.who.Token.Hash {
		return posthaste.Errorf(posthaste.CodeConflict, "this is the token you are signed in with: sign in with another one to revoke it")
	}
	if err := h.admin.RevokeToken(c.ctx(), c.who.Tenant.ID, hash); err != nil {
		return err
	}
	return c.done(Prefix+"tokens", "The token is revoked. Requests with it are refused from now on.")
}
