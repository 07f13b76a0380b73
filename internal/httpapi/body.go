package httpapi

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/posthaste/posthaste"
)

// budget bounds the bytes of request bodies that are in memory.
type budget struct {
	mu   sync.Mutex
	free int64
}

func newBudget(n int64) *budget { return &budget{free: n} }

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false
	}
	b.free -= n
	return true
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	b.free += n
	b.mu.Unlock()
}

// hold takes n bytes of the budget until the request is answered.
func (c *call) hold(n int64) error {
	if !c.h.budget.take(n) {
		return posthaste.Errorf(posthaste.CodeUnavailable, "the server holds as many bytes of requests as it may; try again")
	}
	c.held += n
	return nil
}

// body reads the body of a message. What is larger than the tenant's largest message is refused by that name, and what is over
// the server's own cap is refused without a look.
func (c *call) body() ([]byte, error) {
	most, limit := c.h.cfg.MaxBody, c.h.broker.MaxBody(c.who)
	n := c.r.ContentLength
	if n < 0 || n > limit {
		limit = c.h.broker.FreshMaxBody(c.ctx(), c.who)
	}
	switch {
	case n == 0:
		return nil, nil
	case n > most:
		c.r.Close = true
		return nil, tooLarge(most)
	case limit > 0 && n > limit:
		return nil, posthaste.Errorf(posthaste.CodeQuotaExceeded,
			"quota maxMessageSize exceeded, current limit: %d. Store large data elsewhere and send a reference to it", limit)
	case n > 0:
		if err := c.hold(n); err != nil {
			return nil, err
		}
		buf := make([]byte, n)
		if _, err := io.ReadFull(c.r.Body, buf); err != nil {
			return nil, bodyError(err)
		}
		return buf, nil
	}
	// Of unknown length.
	if limit > 0 {
		most = min(most, limit)
	}
	var buf []byte
	chunk := make([]byte, 32<<10)
	for {
		k, err := c.r.Body.Read(chunk)
		if k > 0 {
			if int64(len(buf)+k) > most {
				if limit > 0 && most == limit {
					return nil, posthaste.Errorf(posthaste.CodeQuotaExceeded,
						"quota maxMessageSize exceeded, current limit: %d. Store large data elsewhere and send a reference to it", limit)
				}
				return nil, tooLarge(most)
			}
			if err := c.hold(int64(k)); err != nil {
				return nil, err
			}
			buf = append(buf, chunk[:k]...)
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, bodyError(err)
		}
	}
}

// small reads the body of a request that is not a message.
func (c *call) small() ([]byte, error) {
	const most = 4 << 20
	if c.r.ContentLength > most {
		return nil, tooLarge(most)
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, most))
	if err != nil {
		return nil, bodyError(err)
	}
	return body, nil
}

func tooLarge(most int64) error {
	return posthaste.Errorf(posthaste.CodeTooLarge, "the request body is larger than the server's %d bytes", most)
}

func bodyError(err error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(large.Limit)
	}
	return &posthaste.Error{Code: posthaste.CodeInvalid, Message: "the request body ended early or could not be read"}
}

// burst counts management requests of tenants whose plan limits them, in windows of a second.
type burst struct {
	mu      sync.Mutex
	second  int64
	tenants map[posthaste.TenantID]int64
}

func newBurst() *burst { return &burst{tenants: map[posthaste.TenantID]int64{}} }

// admit counts a request and refuses it when the tenant had as many in this second as its plan allows.
func (b *burst) admit(c *call) error {
	limit := int64(c.who.Tenant.Plan.RequestsPerSec)
	if limit <= 0 {
		return nil
	}
	now := time.Now().Unix()
	b.mu.Lock()
	if now != b.second {
		b.second = now
		clear(b.tenants)
	}
	b.tenants[c.who.Tenant.ID]++
	used := b.tenants[c.who.Tenant.ID]
	b.mu.Unlock()
	l := &posthaste.RateLimit{Limit: limit, Remaining: max(0, limit-used), Reset: now + 1}
	if used > limit {
		e := posthaste.Errorf(posthaste.CodeRateLimited, "Exceeded burst rate limit: %d requests a second", limit)
		e.Limit = l
		return e
	}
	limitHeaders(c.w.Header(), l)
	return nil
}
