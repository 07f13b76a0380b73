package sqlite

import (
	"errors"

	"zombiezen.com/go/sqlite"

	"github.com/posthaste/posthaste"
)

// broken reports whether err is about the file, its disk or its locks rather than about what was written. Then every
// operation would meet it.
func broken(err error) bool {
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull, sqlite.ResultIOErr, sqlite.ResultCantOpen, sqlite.ResultReadOnly, sqlite.ResultBusy,
		sqlite.ResultLocked, sqlite.ResultNoMem, sqlite.ResultProtocol, sqlite.ResultCorrupt, sqlite.ResultNotADB,
		sqlite.ResultPerm, sqlite.ResultAuth, sqlite.ResultInterrupt:
		return true
	}
	return false
}

// translate gives an error of SQLite its code. What carries a code already keeps it.
func translate(doing string, err error) error {
	if err == nil {
		return nil
	}
	var e *posthaste.Error
	if errors.As(err, &e) {
		return err
	}
	if !broken(err) {
		return posthaste.Wrap(posthaste.CodeInternal, doing, err)
	}
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		doing += ": the disk is full"
	case sqlite.ResultReadOnly, sqlite.ResultCantOpen, sqlite.ResultPerm:
		doing += ": the data file cannot be written; its folder must exist and allow writing"
	case sqlite.ResultNotADB:
		doing += ": the file is something else; choose another one with --data"
	}
	return posthaste.Wrap(posthaste.CodeUnavailable, doing, err)
}
