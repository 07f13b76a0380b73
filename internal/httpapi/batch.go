package httpapi

import (
	"errors"
	"io"
	"net/http"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/broker"
	"github.com/posthaste/posthaste/internal/wire"
)

// batch reads items one by one as they arrive, and accepts all or none.
func batch(c *call) error {
	most := c.h.cfg.MaxBatch
	if c.r.ContentLength > most {
		return tooLarge(most)
	}
	// What is decoded is about as long as what was read.
	if n := c.r.ContentLength; n > 0 {
		if err := c.hold(n); err != nil {
			return err
		}
	}
	known := c.r.ContentLength >= 0
	reader := wire.NewBatchReader(http.MaxBytesReader(c.w, c.r.Body, most), most)
	var items []broker.Item
	for {
		it, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if posthaste.CodeOf(err) == posthaste.CodeInternal {
				return bodyError(err) // the reading failed, not the decoding
			}
			return err
		}
		if !known {
			if err := c.hold(int64(len(it.Body)) + 512); err != nil {
				return err
			}
		}
		items = append(items, broker.Item{Destination: it.Destination, Input: wire.Input{Header: it.Header}, Body: it.Body, Queue: it.Queue})
	}
	if len(items) == 0 {
		c.json(http.StatusOK, []byte("[]"))
		return nil
	}
	results, daily, err := c.h.broker.Publish(c.ctx(), c.who, items)
	if err != nil {
		return err
	}
	if daily != nil {
		limitHeaders(c.w.Header(), daily)
	}
	out := make([]wire.BatchResult, len(results))
	for i, r := range results {
		published := make([]wire.Published, len(r.Messages))
		for j, m := range r.Messages {
			published[j] = wire.Published{ID: m.ID, Deduplicated: m.Duplicate}
			if r.Group {
				published[j].URL = m.URL
			}
		}
		if out[i].IsGroup = r.Group; r.Group {
			out[i].Group = published
		} else {
			out[i].One = published[0]
		}
	}
	c.json(http.StatusOK, wire.AppendBatch(nil, out))
	return nil
}
