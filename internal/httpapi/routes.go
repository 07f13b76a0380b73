package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/auth"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// match finds the route of an escaped path. Fixed words are matched without regard to case; a trailing slash on a collection
// does not matter.
func match(path string) *route {
	path = strings.TrimPrefix(path, "/")
	version, path, _ := strings.Cut(path, "/")
	switch {
	case strings.EqualFold(version, wire.PathHealth) && path == "":
		return &route{name: "/healthz", methods: map[string]endpoint{http.MethodGet: {open: true, serve: health}}}
	case strings.EqualFold(version, wire.PathReady) && path == "":
		return &route{name: "/readyz", methods: map[string]endpoint{http.MethodGet: {open: true, serve: ready}}}
	case strings.EqualFold(version, wire.PathExt):
		return matchExt(path)
	case strings.EqualFold(version, wire.PathLLM):
		return matchLLM(path)
	case !strings.EqualFold(version, wire.PathV2):
		return nil
	}
	word, rest, _ := strings.Cut(path, "/")
	for i := range collections {
		col := &collections[i]
		if strings.EqualFold(word, col.word) {
			return col.match(rest)
		}
	}
	return nil
}

// collection is everything below one word.
type collection struct {
	word  string
	match func(rest string) *route
}

// The method tables. They are made once; matching a request allocates no table.
var (
	publishRoute   = map[string]endpoint{http.MethodPost: {action: auth.Publish, serve: publish}}
	enqueueRoute   = map[string]endpoint{http.MethodPost: {action: auth.Publish, serve: enqueue}}
	batchRoute     = map[string]endpoint{http.MethodPost: {action: auth.Publish, serve: batch}}
	messagesRoute  = map[string]endpoint{http.MethodDelete: {action: auth.Manage, serve: cancelMessages}}
	messageRoute   = map[string]endpoint{http.MethodGet: {serve: getMessage}, http.MethodDelete: {action: auth.Manage, serve: cancelMessage}}
	eventsRoute    = map[string]endpoint{http.MethodGet: {serve: listEvents}}
	logsRoute      = map[string]endpoint{http.MethodGet: {serve: listLogs}}
	deadListRoute  = map[string]endpoint{http.MethodGet: {serve: listDead}, http.MethodDelete: {action: auth.Manage, serve: deleteDeadAll}}
	deadRoute      = map[string]endpoint{http.MethodGet: {serve: getDead}, http.MethodDelete: {action: auth.Manage, serve: deleteDead}}
	deadRetryRoute = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: retryDead}}
	keysRoute      = map[string]endpoint{http.MethodGet: {serve: getKeys}}
	rotateRoute    = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: rotateKeys}}
	queuesRoute    = map[string]endpoint{http.MethodGet: {serve: listQueues}, http.MethodPost: {action: auth.Manage, serve: upsertQueue}}
	queueRoute     = map[string]endpoint{http.MethodGet: {serve: getQueue}, http.MethodDelete: {action: auth.Manage, serve: deleteQueue}}
	queuePause     = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: pauseQueue(true)}}
	queueResume    = map[string]endpoint{http.MethodPost: {action: auth.Manage, serve: pauseQueue(false)}}
)

var collections = []collection{
	{wire.PathPublish, func(rest string) *route {
		return &route{name: "/v2/publish/{destination}", rest: rest, methods: publishRoute}
	}},
	{wire.PathEnqueue, func(rest string) *route {
		return &route{name: "/v2/enqueue/{queue}/{destination}", rest: rest, methods: enqueueRoute}
	}},
	{wire.PathBatch, only("/v2/batch", batchRoute)},
	{wire.PathMessages, one("/v2/messages", messagesRoute, "/v2/messages/{id}", messageRoute)},
	{wire.PathEvents, only("/v2/events", eventsRoute)},
	{wire.PathLogs, only("/v2/logs", logsRoute)},
	{wire.PathDLQ, matchDead},
	{wire.PathKeys, matchKeys},
	{wire.PathRotate, only("/v2/rotate", rotateRoute)},
	{wire.PathQueues, matchQueues},
	{wire.PathTopics, matchTopics},
	{wire.PathSchedules, matchSchedules},
	{wire.PathFlowControl, matchFlow},
	{wire.PathGlobalParallelism, only("/v2/globalParallelism", globalRoute)},
}

// only matches a word with nothing behind it.
func only(name string, methods map[string]endpoint) func(string) *route {
	return func(rest string) *route {
		if rest != "" {
			return nil
		}
		return &route{name: name, methods: methods}
	}
}

// one matches a word alone, and a word with one segment behind it.
func one(name string, methods map[string]endpoint, itemName string, item map[string]endpoint) func(string) *route {
	return func(rest string) *route {
		rest = strings.TrimSuffix(rest, "/")
		switch {
		case rest == "":
			return &route{name: name, methods: methods}
		case strings.Contains(rest, "/"):
			return nil
		}
		return &route{name: itemName, rest: rest, methods: item}
	}
}

func matchDead(rest string) *route {
	word, id, more := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	if strings.EqualFold(word, wire.PathRetry) {
		if strings.Contains(id, "/") {
			return nil
		}
		return &route{name: "/v2/dlq/retry/{id}", rest: id, methods: deadRetryRoute}
	}
	if more {
		return nil
	}
	return one("/v2/dlq", deadListRoute, "/v2/dlq/{id}", deadRoute)(rest)
}

func matchKeys(rest string) *route {
	switch rest = strings.TrimSuffix(rest, "/"); {
	case rest == "":
		return &route{name: "/v2/keys", methods: keysRoute}
	case strings.EqualFold(rest, wire.PathRotate):
		return &route{name: "/v2/keys/rotate", methods: rotateRoute}
	}
	return nil
}

func matchQueues(rest string) *route {
	name, word, more := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	switch {
	case !more:
		return one("/v2/queues", queuesRoute, "/v2/queues/{name}", queueRoute)(rest)
	case strings.EqualFold(word, wire.PathPause):
		return &route{name: "/v2/queues/{name}/pause", rest: name, methods: queuePause}
	case strings.EqualFold(word, wire.PathResume):
		return &route{name: "/v2/queues/{name}/resume", rest: name, methods: queueResume}
	}
	return nil
}

// segment returns the decoded rest of the path.
func (c *call) segment() (string, error) {
	s, err := url.PathUnescape(c.rest)
	if err != nil {
		return "", posthaste.Errorf(posthaste.CodeInvalid, "malformed percent-encoding in the path")
	}
	if err := wire.CheckText(s); err != nil {
		return "", posthaste.Errorf(posthaste.CodeInvalid, "invalid path: %v", err)
	}
	return s, nil
}

func health(c *call) error {
	c.json(http.StatusOK, wire.AppendHealth(nil, "ok"))
	return nil
}

func ready(c *call) error {
	if err := c.h.broker.Ready(c.ctx()); err != nil {
		return posthaste.Errorf(posthaste.CodeUnavailable, "the store does not answer")
	}
	return health(c)
}

// item makes the item of a publish or an enqueue from the request.
func (c *call) item(rest, queue string) (broker.Item, error) {
	d, query, err := wire.ParseDestination(rest, c.r.URL.RawQuery)
	if err != nil {
		return broker.Item{}, err
	}
	body, err := c.body()
	if err != nil {
		return broker.Item{}, err
	}
	return broker.Item{
		Destination: d,
		Input:       wire.Input{Header: c.r.Header, Query: query, TokenInHeader: c.tokenInHeader},
		Body:        body,
		Queue:       queue,
	}, nil
}

func publish(c *call) error {
	item, err := c.item(c.rest, "")
	if err != nil {
		return err
	}
	if wire.HasCron(item.Input) {
		// A schedule outlives the request, so it takes more than the right to publish.
		if err := c.authenticate(endpoint{action: auth.Manage}); err != nil {
			return err
		}
		return c.schedule(item)
	}
	return c.publish(item)
}

func enqueue(c *call) error {
	queue, destination, err := wire.CutQueue(c.rest)
	if err != nil {
		return err
	}
	item, err := c.item(destination, queue)
	if err != nil {
		return err
	}
	return c.publish(item)
}

// publish accepts one item and answers.
func (c *call) publish(item broker.Item) error {
	results, daily, err := c.h.broker.Publish(c.ctx(), c.who, []broker.Item{item})
	if err != nil {
		return err
	}
	if daily != nil {
		limitHeaders(c.w.Header(), daily)
	}
	if c.h.cfg.Hook != nil {
		c.h.cfg.Hook("before-answer")
	}
	res := results[0]
	status := http.StatusAccepted // all are duplicates
	published := make([]wire.Published, len(res.Messages))
	for i, m := range res.Messages {
		published[i] = wire.Published{ID: m.ID, Deduplicated: m.Duplicate}
		if res.Group {
			published[i].URL = m.URL
		}
		if !m.Duplicate {
			status = http.StatusOK
		}
	}
	if res.Group {
		c.json(status, wire.AppendPublishedGroup(nil, published))
	} else {
		c.json(status, wire.AppendPublished(make([]byte, 0, 96), published[0]))
	}
	return nil
}

func getMessage(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	m, err := c.h.broker.Message(c.ctx(), c.who, posthaste.MessageID(id))
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendMessage(nil, m))
	return nil
}

func cancelMessage(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.Cancel(c.ctx(), c.who, posthaste.MessageID(id)); err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendCancelled(nil, 1))
	return nil
}

func cancelMessages(c *call) error {
	body, err := c.small()
	if err != nil {
		return err
	}
	f, err := wire.ParseCancelFilter(c.r.URL.RawQuery, body)
	if err != nil {
		return err
	}
	n, err := c.h.broker.CancelAll(c.r.Context(), c.who, f)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendCancelled(nil, int64(n)))
	return nil
}

func listEvents(c *call) error { return c.logs(wire.RouteEvents) }

func listLogs(c *call) error { return c.logs(wire.RouteLogs) }

func (c *call) logs(rt wire.LogRoute) error {
	f, err := wire.ParseLogFilter(c.r.URL.RawQuery, rt)
	if err != nil {
		return err
	}
	page, cursor, err := c.h.broker.Logs(c.ctx(), c.who, f)
	if err != nil {
		return err
	}
	if rt == wire.RouteLogs {
		c.json(http.StatusOK, wire.AppendLogPage(nil, page, cursor))
	} else {
		c.json(http.StatusOK, wire.AppendEventPage(nil, page, cursor))
	}
	return nil
}

func listDead(c *call) error {
	f, err := wire.ParseDeadFilter(c.r.URL.RawQuery)
	if err != nil {
		return err
	}
	page, cursor, err := c.h.broker.DeadLetters(c.ctx(), c.who, f)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendDeadPage(nil, page, cursor))
	return nil
}

func getDead(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	d, err := c.h.broker.DeadLetter(c.ctx(), c.who, posthaste.DeadLetterID(id))
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendDead(nil, d))
	return nil
}

func deleteDead(c *call) error {
	id, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.DeleteDead(c.ctx(), c.who, posthaste.DeadLetterID(id)); err != nil {
		return err
	}
	return c.empty()
}

// deadSelection reads which dead letters a bulk call is about.
func (c *call) deadSelection() (wire.DeadFilter, error) {
	body, err := c.small()
	if err != nil {
		return wire.DeadFilter{}, err
	}
	return wire.ParseDeadSelection(c.r.URL.RawQuery, body)
}

func deleteDeadAll(c *call) error {
	f, err := c.deadSelection()
	if err != nil {
		return err
	}
	n, cursor, err := c.h.broker.DeleteDeadAll(c.r.Context(), c.who, f)
	if err != nil {
		return err
	}
	if len(f.IDs) > 0 {
		cursor = ""
	}
	c.json(http.StatusOK, wire.AppendDeleted(nil, int64(n), cursor))
	return nil
}

func retryDead(c *call) error {
	in := wire.Input{Header: c.r.Header, TokenInHeader: c.tokenInHeader}
	if c.rest != "" {
		id, err := c.segment()
		if err != nil {
			return err
		}
		made, err := c.h.broker.RetryDead(c.ctx(), c.who, posthaste.DeadLetterID(id), in)
		if err != nil {
			return err
		}
		c.json(http.StatusCreated, wire.AppendPublished(nil, wire.Published{ID: made}))
		return nil
	}
	f, err := c.deadSelection()
	if err != nil {
		return err
	}
	ids, cursor, err := c.h.broker.RetryDeadAll(c.r.Context(), c.who, f, in)
	if err != nil {
		return err
	}
	c.json(http.StatusCreated, wire.AppendRetried(nil, ids, cursor))
	return nil
}

func getKeys(c *call) error {
	keys, err := c.h.broker.Keys(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendSigningKeys(nil, keys))
	return nil
}

func rotateKeys(c *call) error {
	keys, err := c.h.broker.RotateKeys(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendSigningKeys(nil, keys))
	return nil
}

func listQueues(c *call) error {
	queues, err := c.h.broker.Queues(c.ctx(), c.who)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendQueues(nil, queues))
	return nil
}

func upsertQueue(c *call) error {
	body, err := c.small()
	if err != nil {
		return err
	}
	q, err := wire.ParseQueueUpsert(body)
	if err != nil {
		return err
	}
	if err := c.h.broker.UpsertQueue(c.ctx(), c.who, q); err != nil {
		return err
	}
	return c.empty()
}

func getQueue(c *call) error {
	name, err := c.segment()
	if err != nil {
		return err
	}
	q, err := c.h.broker.Queue(c.ctx(), c.who, name)
	if err != nil {
		return err
	}
	c.json(http.StatusOK, wire.AppendQueue(nil, q))
	return nil
}

func deleteQueue(c *call) error {
	name, err := c.segment()
	if err != nil {
		return err
	}
	if err := c.h.broker.DeleteQueue(c.ctx(), c.who, name); err != nil {
		return err
	}
	return c.empty()
}

func pauseQueue(paused bool) func(*call) error {
	return func(c *call) error {
		name, err := c.segment()
		if err != nil {
			return err
		}
		if err := c.h.broker.PauseQueue(c.ctx(), c.who, name, paused); err != nil {
			return err
		}
		return c.empty()
	}
}
