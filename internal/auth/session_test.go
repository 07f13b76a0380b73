package auth_test

import (
	"testing"
	"time"

	"github.com/posthaste/posthaste/internal/auth"
)

func TestSessions(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := auth.NewSessions(func() time.Time { return now })
	id, other := s.Begin("secret"), s.Begin("secret")
	if id == other || len(id) < 40 {
		t.Errorf("got ids %q and %q, want two that nobody can guess", id, other)
	}
	if got, ok := s.Token(id); got != "secret" || !ok {
		t.Errorf("got %q, %v, want the token", got, ok)
	}
	for _, bad := range []string{"", "secret", id[1:], id + "x"} {
		if got, ok := s.Token(bad); ok {
			t.Errorf("%q: got %q, want no session", bad, got)
		}
	}
	s.End(other)
	if _, ok := s.Token(other); ok {
		t.Error("a session went on after its end")
	}
	for range 3 {
		now = now.Add(11 * time.Hour)
		if _, ok := s.Token(id); !ok {
			t.Error("a session in use ended")
		}
	}
	now = now.Add(13 * time.Hour)
	if _, ok := s.Token(id); ok {
		t.Error("a session that was not used goes on")
	}
}

// TestSessionsAreBounded: the oldest makes room.
func TestSessionsAreBounded(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	s := auth.NewSessions(func() time.Time { return now })
	first := s.Begin("a")
	now = now.Add(time.Second)
	second := s.Begin("a")
	for range 9_999 {
		s.Begin("a")
	}
	if _, ok := s.Token(first); ok {
		t.Error("the oldest of too many sessions goes on")
	}
	if _, ok := s.Token(second); !ok {
		t.Error("a session ended that there was room for")
	}
}
