package posthaste

import (
	"errors"
	"fmt"
)

// Code classifies an error for callers. The set is closed: every error that crosses a package border carries one.
type Code string

// The codes. Only the HTTP edge turns them into status numbers, and only the client turns them back.
const (
	CodeInvalid       Code = "invalid"        // the request breaks a rule; repeating it unchanged cannot succeed
	CodeUnauthorized  Code = "unauthorized"   // no valid token
	CodeForbidden     Code = "forbidden"      // the token's scope does not allow it
	CodeNotFound      Code = "not_found"      // the thing named does not exist for this tenant
	CodeConflict      Code = "conflict"       // the state of the thing does not allow it
	CodeTooLarge      Code = "too_large"      // over the server's absolute cap
	CodeQuotaExceeded Code = "quota_exceeded" // over a limit of the plan or the preset
	CodeRateLimited   Code = "rate_limited"   // too many requests or messages for now; see Error.Limit
	CodeUnavailable   Code = "unavailable"    // the store cannot commit, or the server is full; nothing was stored
	CodeInternal      Code = "internal"       // a fault of the server
)

// RateLimit says which limiter refused, for errors of CodeRateLimited.
type RateLimit struct {
	Daily     bool  // the tenant's messages a day; otherwise its requests a second
	Limit     int64 // allowed in the window
	Remaining int64 // left in the window
	Reset     int64 // when the window ends, unix seconds
}

// Error is the one error type that crosses package borders.
type Error struct {
	Code    Code
	Message string     // for people: what was wrong, which field, what would be right
	Limit   *RateLimit // set with CodeRateLimited
	Err     error      // the cause, for logs; never shown to clients
}

// Error returns the message, followed by the cause if there is one.
func (e *Error) Error() string {
	if e.Err != nil {
		if e.Message == "" {
			return e.Err.Error()
		}
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of the given code whose message is formatted as by [fmt.Sprintf].
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an Error of the given code that says what was being done when err happened. It returns nil for a nil err.
// An err that carries a code already keeps it.
func Wrap(code Code, doing string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		code = e.Code
	}
	return &Error{Code: code, Message: doing, Err: err}
}

// CodeOf returns the code of err: that of the first [Error] in its chain, CodeInternal for any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
