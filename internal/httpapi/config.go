package httpapi

import (
	"net/http"
	"strings"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// Routes of what tenants configure: URL groups, schedules, flow-control keys.
var (
	groupsRoute    = map[string]endpoint{http.MethodGet: {serve: listGroups}}
	groupRoute     = map[string]endpoint{http.MethodGet: {serve: getGroup}, http.MethodPatch: {action: auth.Manage, serve: patchGroup}, http.MethodDelete: {action: auth.Manage, serve: deleteGroup}}
	endpointsRoute = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: addEndpoints}, http.MethodDelete: {action: auth.Manage, serve: removeEndpoints}}

	schedulesRoute = map[string]endpoint{http.MethodGet: {serve: listSchedules}, http.MethodPost: {action: auth.Manage, serve: putSchedule}}
	scheduleRoute  = map[string]endpoint{http.MethodGet: {serve: getSchedule}, http.MethodPost: {action: auth.Manage, serve: putSchedule}, http.MethodDelete: {action: auth.Manage, serve: deleteSchedule}}
	scheduleCreate = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: putSchedule}}
	schedulePause  = anyOf(pauseSchedule(true))
	scheduleResume = anyOf(pauseSchedule(false))

	flowListRoute = map[string]endpoint{http.MethodGet: {serve: listFlow}}
	flowRoute     = map[string]endpoint{http.MethodGet: {serve: getFlow}, http.MethodPost: {action: auth.Manage, serve: editFlow}}
	globalRoute   = map[string]endpoint{http.MethodGet: {serve: globalParallelism}}
)

// anyOf allows the three methods by which schedules are paused and resumed.
func anyOf(serve func(*call) error) map[string]endpoint {
	e := endpoint{action: auth.Manage, serve: serve}
	return map[string]endpoint{http.MethodPatch: e, http.MethodPost: e, http.MethodPut: e}
}

func matchTopics(rest string) *route {
	rest = strings.TrimSuffix(rest, "/")
	name, word, more := strings.Cut(rest, "/")
	switch {
	case !more:
		return one("/v2/topics", groupsRoute, "/v2/topics/{name}", groupRoute)(rest)
	case strings.EqualFold(word, wire.PathEndpoints):
		return &route{name: "/v2/topics/{name}/endpoints", rest: name, methods: endpointsRoute}
	}
	return nil
}

// matchSchedules tells pausing a schedule from creating one for a destination whose path ends in the same word: a destination
// has a scheme.
func matchSchedules(rest string) *route {
	if _, action, ok := wire.ParseSchedulePath(rest); ok {
		id, _, _ := strings.Cut(rest, "/")
		if action == wire.PathPause {
			return &route{name: "/v2/schedules/{id}/pause", rest: id, methods: schedulePause}
		}
		return &route{name: "/v2/schedules/{id}/resume", rest: id, methods: scheduleResume}
	}
	switch trimmed := strings.TrimSuffix(rest, "/"); {
	case trimmed == "":
		return &route{name: "/v2/schedules", methods: schedulesRoute}
	case strings.Contains(trimmed, "/"):
		return &route{name: "/v2/schedules/{destination}", rest: rest, methods: scheduleCreate}
	}
	return &route{name: "/v2/schedules/{id}", rest: rest, methods: scheduleRoute}
}

func matchFlow(rest string) *route {
	if strings.Trim(rest, "/") == "" {
		return &route{name: "/v2/flowControl", methods: flowListRoute}
	}
	return &route{name: "/v2/flowControl/{key}", rest: rest, methods: flowRoute}
}

func listGroups(c *call) error {
	groups, err := c.h.broker.Groups(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendURLGroups(nil, groups))
	return nil
}

func getGroup(c *call) error {
	name, err := c.segment()
	if err != nil {
		return err
	}
	g, err := c.h.broker.Group(c.ctx(), c.who, name)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendURLGroup(nil, g))
	return nil
}

// withBody decodes the path's name and the body, and acts on both.
func withBody[T any](parse func([]byte) (T, error), act func(c *call, name string, v T) error) func(*call) error {
	return func(c *call) error {
		name, err := c.segment()
		if err != nil {
			return err
		}
		body, err := c.small()
		if err != nil {
			return err
		}
		v, err := parse(body)
		if err != nil {
			return err
		}
		if err := act(c, name, v); err != nil {
			return err
		}
		return c.empty()
	}
}

func patchGroup(c *call) error {
	return withBody(wire.ParseGroupDefaults, func(c *call, name string, h posthaste.Header) error {
		return c.h.broker.SetGroupDefaults(c.ctx(), c.who, name, h)
	})(c)
}

func addEndpoints(c *call) error {
	return withBody(wire.ParseEndpoints, func(c *call, name string, e []posthaste.Endpoint) error {
		return c.h.broker.AddEndpoints(c.ctx(), c.who, name, e)
	})(c)
}

func removeEndpoints(c *call) error {
	return withBody(wire.ParseEndpointRefs, func(c *call, name string, e []posthaste.Endpoint) error {
		return c.h.broker.RemoveEndpoints(c.ctx(), c.who, name, e)
	})(c)
}

func deleteGroup(c *call) error {
	name, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.DeleteGroup(c.ctx(), c.who, name); err != nil {
		return err
	}
	return c.empty()
}

func listSchedules(c *call) error {
	list, err := c.h.broker.Schedules(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendSchedules(nil, list))
	return nil
}

func putSchedule(c *call) error {
	item, err := c.item(c.rest, "")
	if err != nil {
		return err
	}
	return c.schedule(item)
}

// schedule creates or replaces a schedule and answers.
func (c *call) schedule(item broker.Item) error {
	id, err := c.h.broker.PutSchedule(c.ctx(), c.who, item)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendScheduleID(nil, id))
	return nil
}

func getSchedule(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	s, err := c.h.broker.Schedule(c.ctx(), c.who, posthaste.ScheduleID(strings.TrimSuffix(id, "/")))
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendSchedule(nil, s))
	return nil
}

func deleteSchedule(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.DeleteSchedule(c.ctx(), c.who, posthaste.ScheduleID(strings.TrimSuffix(id, "/"))); err != nil {
		return err
	}
	return c.empty()
}

func pauseSchedule(paused bool) func(*call) error {
	return func(c *call) error {
		id, err := c.segment()
		if err != nil {
			return err
		}
		if err := c.h.broker.PauseSchedule(c.ctx(), c.who, posthaste.ScheduleID(id), paused); err != nil {
			return err
		}
		return c.empty()
	}
}

func listFlow(c *call) error {
	search, err := wire.ParseFlowSearch(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	keys, err := c.h.broker.FlowKeys(c.ctx(), c.who, search)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendFlowKeys(nil, keys))
	return nil
}

func getFlow(c *call) error {
	key, _, _, err := wire.ParseFlowPath(c.rest, false)
	if err != nil {
		return err
	}
	k, err := c.h.broker.FlowKey(c.ctx(), c.who, key)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendFlowKey(nil, k))
	return nil
}

func editFlow(c *call) error {
	key, action, ok, err := wire.ParseFlowPath(strings.TrimSuffix(c.rest, "/"), true)
	if err != nil {
		return err
	}
	if !ok {
		return &posthaste.Error{Code: posthaste.CodeNotFound, Message: "no such route: a flow control key is followed by pause, resume, pin, unpin, resetRate or reset"}
	}
	ctx, b := c.ctx(), c.h.broker
	switch action {
	case wire.PathPause, wire.PathResume:
		err = b.PauseFlow(ctx, c.who, key, action == wire.PathPause)
	case wire.PathPin:
		var pin wire.Pin
		if pin, err = wire.ParsePin(c.r.URL.RawQuery); err == nil {
			err = b.PinFlow(ctx, c.who, key, pin)
		}
	case wire.PathUnpin:
		var unpin wire.Unpin
		if unpin, err = wire.ParseUnpin(c.r.URL.RawQuery); err == nil {
			err = b.UnpinFlow(ctx, c.who, key, unpin)
		}
	case wire.PathResetRate, wire.PathReset:
		err = b.ResetFlowRate(ctx, c.who, key)
	}
	if err != nil {
		return err
	}
	return c.empty()
}

func globalParallelism(c *call) error {
	most, inFlight, err := c.h.broker.GlobalParallelism(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendGlobalParallelism(nil, most, inFlight))
	return nil
}
