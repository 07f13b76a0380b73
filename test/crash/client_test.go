//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// A client calls the API of a server as an application would.
type client struct {
	bases []string // taken in turn
	turn  atomic.Uint32
	token string
	http  *http.Client
}

func newClient(s *server) *client {
	var bases []string
	for _, addr := range s.addrs {
		bases = append(bases, "http://"+addr)
	}
	return &client{bases: bases, token: s.token, http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 512},
		Timeout:   60 * time.Second,
	}}
}

// errUnsent is an error of a request that did not reach any server.
var errUnsent = errors.New("the request was not sent")

// call makes a request and returns status and body of the answer. Without a whole answer it returns an error: errUnsent if
// there was nobody to send to, else one that leaves open whether the request was carried out.
func (c *client) call(ctx context.Context, method, path string, header http.Header, body []byte) (int, []byte, error) {
	base := c.bases[int(c.turn.Add(1))%len(c.bases)]
	req, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
			return 0, nil, fmt.Errorf("%w: %w", errUnsent, err)
		}
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	return resp.StatusCode, answer, nil
}

// get reads an object. It expects an answer.
func (c *client) get(ctx context.Context, path string, to any) error {
	status, body, err := c.call(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s answered %d: %s", path, status, body)
	}
	return json.Unmarshal(body, to)
}

// A logEntry is one entry of the log.
type logEntry struct {
	Time      int64  `json:"time"`
	ID        string `json:"messageId"`
	State     string `json:"state"`
	URL       string `json:"url"`
	Error     string `json:"error"`
	Next      int64  `json:"nextDeliveryTime"`
	FlowKey   string `json:"flowControlKey"`
	QueueName string `json:"queueName"`
}

// log reads the whole log, from its beginning.
func (c *client) log(ctx context.Context) ([]logEntry, error) {
	var all []logEntry
	q := url.Values{"order": {"earliestFirst"}, "count": {"1000"}}
	for {
		var page struct {
			Events []logEntry `json:"events"`
			Cursor string     `json:"cursor"`
		}
		if err := c.get(ctx, "/v2/events?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Events...)
		if page.Cursor == "" {
			return all, nil
		}
		if page.Cursor == q.Get("cursor") {
			return nil, fmt.Errorf("the page behind cursor %q ends with the same cursor", page.Cursor)
		}
		q.Set("cursor", page.Cursor)
	}
}

// logOf reads the log of one message.
func (c *client) logOf(ctx context.Context, id string) ([]logEntry, error) {
	var page struct {
		Events []logEntry `json:"events"`
	}
	err := c.get(ctx, "/v2/events?order=earliestFirst&messageId="+id, &page)
	return page.Events, err
}

// A deadLetter is one entry of the dead letter queue.
type deadLetter struct {
	DLQID  string `json:"dlqId"`
	ID     string `json:"messageId"`
	URL    string `json:"url"`
	Status int    `json:"responseStatus"`
}

// dead reads the whole dead letter queue.
func (c *client) dead(ctx context.Context) ([]deadLetter, error) {
	var all []deadLetter
	q := url.Values{"count": {"100"}}
	for {
		var page struct {
			Messages []deadLetter `json:"messages"`
			Cursor   string       `json:"cursor"`
		}
		if err := c.get(ctx, "/v2/dlq?"+q.Encode(), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Messages...)
		if page.Cursor == "" {
			return all, nil
		}
		q.Set("cursor", page.Cursor)
	}
}

// cancel cancels one message and reports whether that was confirmed.
func (c *client) cancel(ctx context.Context, id string) (confirmed bool, err error) {
	status, body, err := c.call(ctx, http.MethodDelete, "/v2/messages/"+id, nil, nil)
	if err != nil {
		return false, err
	}
	if status == http.StatusNotFound {
		return false, nil
	}
	n, err := cancelled(status, body)
	return n == 1, err
}

// cancelAll cancels messages by a query and returns how many that were.
func (c *client) cancelAll(ctx context.Context, q url.Values) (int, error) {
	status, body, err := c.call(ctx, http.MethodDelete, "/v2/messages?"+q.Encode(), nil, nil)
	if err != nil {
		return 0, err
	}
	return cancelled(status, body)
}

func cancelled(status int, body []byte) (int, error) {
	var answer struct {
		Cancelled *int `json:"cancelled"`
	}
	if err := json.Unmarshal(body, &answer); status != http.StatusOK || err != nil || answer.Cancelled == nil {
		return 0, fmt.Errorf("a cancel was answered %d: %s", status, body)
	}
	return *answer.Cancelled, nil
}

// upsertQueue makes a queue or changes it.
func (c *client) upsertQueue(ctx context.Context, name string, parallelism int) error {
	body := fmt.Sprintf(`{"queueName":%q,"parallelism":%d,"paused":false}`, name, parallelism)
	status, answer, err := c.call(ctx, http.MethodPost, "/v2/queues", nil, []byte(body))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("a queue was answered %d: %s", status, answer)
	}
	return err
}

// A published is what a publish is answered.
type published struct {
	ID           string `json:"messageId"`
	Deduplicated bool   `json:"deduplicated"`
	Error        string `json:"error"`
}

// publish sends one message.
func (c *client) publish(ctx context.Context, sp *spec, receiver string) (int, published, error) {
	path := "/v2/publish/"
	if sp.queue != "" {
		path = "/v2/enqueue/" + sp.queue + "/"
	}
	var answer published
	status, body, err := c.call(ctx, http.MethodPost, path+sp.place.url(receiver), sp.header(receiver), sp.body)
	if err != nil {
		return 0, answer, err
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return status, answer, fmt.Errorf("a publish was answered %d: %s", status, body)
	}
	return status, answer, nil
}

// batch sends several messages in one request.
func (c *client) batch(ctx context.Context, specs []*spec, receiver string) (int, []published, error) {
	type item struct {
		Destination string            `json:"destination"`
		Headers     map[string]string `json:"headers"`
		Body        string            `json:"body"`
		Queue       string            `json:"queue,omitempty"`
	}
	items := make([]item, len(specs))
	for i, sp := range specs {
		items[i] = item{sp.place.url(receiver), map[string]string{}, string(sp.body), sp.queue}
		for name, values := range sp.header(receiver) {
			items[i].Headers[name] = strings.Join(values, ",")
		}
	}
	body, err := json.Marshal(items)
	if err != nil {
		return 0, nil, err
	}
	status, answer, err := c.call(ctx, http.MethodPost, "/v2/batch", nil, body)
	if err != nil || status != http.StatusOK {
		return status, nil, err
	}
	var list []published
	if err := json.Unmarshal(answer, &list); err != nil || len(list) != len(specs) {
		return status, nil, fmt.Errorf("a batch of %d was answered %d: %s", len(specs), status, answer)
	}
	return status, list, nil
}

// retryDead makes a message of a dead letter again, and reports whether there was that letter.
func (c *client) retryDead(ctx context.Context, id string) (bool, error) {
	status, body, err := c.call(ctx, http.MethodPost, "/v2/dlq/retry/"+id, nil, nil)
	switch {
	case err != nil:
		return false, err
	case status == http.StatusNotFound:
		return false, nil
	case status != http.StatusCreated:
		return false, fmt.Errorf("a retry of a dead letter was answered %d: %s", status, body)
	}
	return true, nil
}
