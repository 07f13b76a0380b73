package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"
)

// Bounds of sessions.
const (
	sessionIdle = 12 * time.Hour // a session that is not used for so long ends
	maxSessions = 10_000
)

// Sessions are sign-ins of the console. Each stands for a token, which is authenticated anew at every request, so that a
// revoked token ends its sessions. They are kept in memory: a restart signs everybody out. Sessions is safe for concurrent
// use.
type Sessions struct {
	now func() time.Time

	mu   sync.Mutex
	byID map[[sha256.Size]byte]*session // by the hash of the id: who reads memory cannot use them
}

type session struct {
	token string
	used  time.Time
}

// NewSessions returns no sessions yet. now is real time; nil: [time.Now].
func NewSessions(now func() time.Time) *Sessions {
	if now == nil {
		now = time.Now
	}
	return &Sessions{now: now, byID: map[[sha256.Size]byte]*session{}}
}

// Begin makes a session for a token and returns its id, which nobody can guess.
func (s *Sessions) Begin(token string) (id string) {
	var r [32]byte
	rand.Read(r[:]) // never fails
	id = base64.RawURLEncoding.EncodeToString(r[:])
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byID) >= maxSessions {
		s.drop(now)
	}
	s.byID[sha256.Sum256([]byte(id))] = &session{token: token, used: now}
	return id
}

// drop makes room: sessions that have ended, or else the one that was not used for longest.
func (s *Sessions) drop(now time.Time) {
	var oldest [sha256.Size]byte
	var at time.Time
	for k, v := range s.byID {
		if now.Sub(v.used) > sessionIdle {
			delete(s.byID, k)
		} else if at.IsZero() || v.used.Before(at) {
			oldest, at = k, v.used
		}
	}
	if len(s.byID) >= maxSessions {
		delete(s.byID, oldest)
	}
}

// Token returns the token of a session and notes its use; ok is false if there is no such session or it has ended.
func (s *Sessions) Token(id string) (token string, ok bool) {
	if id == "" {
		return "", false
	}
	key := sha256.Sum256([]byte(id))
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byID[key]
	if v == nil {
		return "", false
	}
	if now.Sub(v.used) > sessionIdle {
		delete(s.byID, key)
		return "", false
	}
	v.used = now
	return v.token, true
}

// End ends a session. It is no error if there is none.
func (s *Sessions) End(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, sha256.Sum256([]byte(id)))
}
