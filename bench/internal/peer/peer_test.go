package peer_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/posthaste/posthaste/bench/internal/peer"
)

// TestNATS runs the one adapter that needs no other program: a message comes in, goes out, and is not sent again.
func TestNATS(t *testing.T) {
	got := make(chan string, 10)
	dest := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		got <- req.URL.Path + " " + req.Header.Get("Content-Type") + " " + string(body)
	}))
	defer dest.Close()
	for _, name := range []string{"nats", "nats-lazy"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			serving, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- peer.Run(ctx, name, t.TempDir(), l, func() { close(serving) }) }()
			select {
			case <-serving:
			case err := <-done:
				t.Fatal(err)
			}
			resp, err := http.Post("http://"+l.Addr().String()+"/v2/publish/"+dest.URL+"/a", "text/x", strings.NewReader("the body"))
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(answer), `{"messageId":"`) {
				t.Errorf("got %d %s", resp.StatusCode, answer)
			}
			select {
			case d := <-got:
				if d != "/a text/x the body" {
					t.Errorf("got the delivery %q", d)
				}
			case <-time.After(20 * time.Second):
				t.Error("not delivered within 20 s")
			}
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
			if len(got) > 0 {
				t.Errorf("delivered again: %q", <-got)
			}
		})
	}
}

func TestUnknown(t *testing.T) {
	if err := peer.Run(t.Context(), "carrier pigeon", "", nil, nil); err == nil || !strings.Contains(err.Error(), "carrier pigeon") {
		t.Errorf("got error %v, want that there is none", err)
	}
}
