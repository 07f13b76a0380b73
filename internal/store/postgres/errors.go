package postgres

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/posthaste/posthaste"
)

// A fault says what is to be done about an error of a transaction that was not committed.
type fault uint8

const (
	faultOther   fault = iota // every operation of the batch fails
	faultData                 // it is about what one operation wrote: run them one by one
	faultAgain                // run the same again
	faultServer               // the connection or the server is not fit for writing: connect anew
	faultUnknown              // the outcome of a commit is not known
)

// errLost says that a row an operation was decided on is not where it was loaded from. Only an operation that stores what it
// did not load can bring that about.
var errLost = posthaste.Errorf(posthaste.CodeInternal, "a row that was decided on is not stored as it was read")

// errAbsent says that rows to be locked were not there; they are now.
var errAbsent = errors.New("postgres: rows to be locked were absent")

// errIdle says that the server ended the session before the second trip.
var errIdle = errors.New("postgres: the session ended while the transaction was idle")

// errCommit says that the connection broke while a commit was under way.
var errCommit = errors.New("the connection broke during the commit, whose outcome is not known")

// sqlState returns the SQLSTATE of err; empty if the server did not send it.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// faultOf classifies an error of a transaction.
func faultOf(err error) fault {
	if errors.Is(err, errCommit) {
		return faultUnknown
	}
	if errors.Is(err, errAbsent) || errors.Is(err, errIdle) {
		return faultAgain
	}
	if errors.Is(err, errLost) {
		return faultData
	}
	code := sqlState(err)
	if code == "" {
		if broken(err) {
			return faultServer
		}
		return faultOther
	}
	switch code {
	case "40001", "40P01", "55P03", "25P03":
		return faultAgain
	case "25006":
		return faultServer
	}
	switch code[:2] {
	case "22", "23":
		return faultData
	case "08", "57":
		return faultServer
	}
	return faultOther
}

// broken reports whether err is about the connection.
func broken(err error) bool {
	var n net.Error
	var c *pgconn.ConnectError
	return errors.As(err, &n) || errors.As(err, &c) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, context.DeadlineExceeded) || pgconn.SafeToRetry(err)
}

// translate gives an error of PostgreSQL its code. What carries a code already keeps it.
func translate(doing string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*posthaste.Error](err); ok {
		return err
	}
	code := sqlState(err)
	if errors.Is(err, errCommit) || errors.Is(err, errIdle) {
		return posthaste.Wrap(posthaste.CodeUnavailable, doing, err)
	}
	if code == "" {
		if broken(err) || errors.Is(err, errAbsent) {
			return posthaste.Wrap(posthaste.CodeUnavailable, doing, err)
		}
		return posthaste.Wrap(posthaste.CodeInternal, doing, err)
	}
	switch code {
	case "22012": // the statements that must find their rows say so
		return errLost
	case "25006":
		return posthaste.Wrap(posthaste.CodeUnavailable, doing+": the server is read-only", err)
	case "53100":
		return posthaste.Wrap(posthaste.CodeUnavailable, doing+": the disk of the server is full", err)
	case "25P03":
		return posthaste.Wrap(posthaste.CodeUnavailable, doing, err)
	}
	switch code[:2] {
	// Connection, transaction rollback, resources, locks, operator intervention, system error, and what a login can meet.
	case "08", "40", "53", "55", "57", "58", "28", "3D":
		return posthaste.Wrap(posthaste.CodeUnavailable, doing, err)
	}
	return posthaste.Wrap(posthaste.CodeInternal, doing, err)
}
