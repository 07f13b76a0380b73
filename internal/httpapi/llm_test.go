package httpapi_test

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/posthaste/posthaste/internal/clock"
	"github.com/posthaste/posthaste/internal/server"
)

func llmConfig() stackConfig {
	cfg := stackConfig{}
	cfg.Broker.LLM, cfg.Delivery.LLMToken = "https://llm.test/v1/chat/completions", "secret"
	return cfg
}

// TestChat: a request to the operator's language model goes through unchanged, without what it says of the client.
func TestChat(t *testing.T) {
	inBubble(t, llmConfig(), func(t *testing.T, s *stack) {
		s.dest.answers(func(*received) answer {
			return answer{status: 200, body: `{"choices":[]}`, header: http.Header{
				"Content-Type": {"application/json"}, "Set-Cookie": {"a=b"}, "Access-Control-Allow-Origin": {"*"}, "X-Request-Id": {"theirs"},
				"X-Ratelimit-Limit-Requests": {"7"},
			}}
		})
		const chat = "POST /llm/v1/chat/completions"
		s.run(step{
			do: chat, header: []string{"Content-Type: application/json", "Accept: application/json", "Cookie: c=d", "X-Forwarded-For: 192.0.2.1", "Upstash-Forward-X: y"},
			body: `{"model":"m"}`, status: 200, want: `{"choices":[]}`,
			head: []string{"Set-Cookie: -", "Access-Control-Allow-Origin: -", "X-Ratelimit-Limit-Requests: 7"},
		})
		r := s.dest.one(t)
		if r.method != http.MethodPost || r.url != "https://llm.test/v1/chat/completions" || r.body != `{"model":"m"}` {
			t.Errorf("got %s %s %q, want the request at the operator's URL", r.method, r.url, r.body)
		}
		want := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}, "Authorization": {"Bearer secret"}}
		for name, v := range r.header {
			if w := want.Get(name); v[0] != w && name != "User-Agent" {
				t.Errorf("got %s %q, want %q", name, v, w)
			}
		}
		if got := r.header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("got Authorization %q, want the operator's token", got)
		}
		// What it refuses is the client's to know.
		s.dest.answers(func(*received) answer {
			return answer{status: 429, body: `{"error":"slow down"}`, header: http.Header{"Content-Type": {"application/json"}}}
		})
		s.run(
			step{do: chat, body: "{}", status: 429, want: `{"error":"slow down"}`},
			step{do: chat, token: "-", status: 401},
			step{do: chat, body: strings.Repeat("x", 513<<10), status: 413},
			step{do: "GET /llm/v1/chat/completions", status: 405},
			step{do: "POST /llm/v1/models", status: 404},
		)
		s.dest.answers(func(*received) answer { return answer{err: errors.New("no such host")} })
		s.run(step{do: chat, body: "{}", status: 503, want: `{"error":"the language model service does not answer"}`})
	})
	inBubble(t, stackConfig{}, func(t *testing.T, s *stack) {
		s.run(step{do: "POST /llm/v1/chat/completions", status: 400, want: `{"error":"api llm is not enabled: the server has no --llm-url"}`})
	})
}

// TestChatStream: the parts of a stream go on as they come.
func TestChatStream(t *testing.T) {
	inBubble(t, llmConfig(), func(t *testing.T, s *stack) {
		from, to := io.Pipe()
		s.dest.answers(func(*received) answer {
			return answer{status: 200, stream: from, header: http.Header{"Content-Type": {"text/event-stream"}}}
		})
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(s.raw(step{do: "POST /llm/v1/chat/completions", body: `{"stream":true}`}))))
		if err != nil {
			t.Fatal(err)
		}
		w, done := httptest.NewRecorder(), make(chan struct{})
		go func() {
			defer close(done)
			s.handler.ServeHTTP(w, req)
		}()
		want := ""
		for _, part := range []string{"data: {\"a\":1}\n\n", "data: {\"a\":2}\n\n", "data: [DONE]\n\n"} {
			if _, err := io.WriteString(to, part); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want += part
			if got := w.Body.String(); got != want || !w.Flushed {
				t.Fatalf("got %q, flushed %v; want %q at once", got, w.Flushed, want)
			}
		}
		to.Close()
		<-done
		if got := w.Header().Get("Content-Type"); got != "text/event-stream" || w.Code != http.StatusOK {
			t.Errorf("got %d %s, want 200 text/event-stream", w.Code, got)
		}
	})
}

// TestLLMURL: a URL that nothing would be delivered to is refused at the start, with the switch that would allow it.
func TestLLMURL(t *testing.T) {
	for url, want := range map[string]string{"http://llm.test/v1": "allow-http", "https://127.0.0.1/v1": "allow-private", "llm.test": "llm-url"} {
		cfg := llmConfig()
		cfg.Broker.LLM, cfg.Clock = url, clock.New()
		s, err := server.New(t.Context(), cfg.Config)
		if err == nil {
			s.Stop(t.Context())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want one that names %s", url, err, want)
		}
	}
}
