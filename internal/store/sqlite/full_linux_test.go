package sqlite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/posthaste/posthaste"
	"github.com/posthaste/posthaste/internal/store/sqlite"
)

// A disk that fills up under the WAL: nothing that was answered is lost, nothing half-done stays, and the store works again
// when there is space.
func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "data")
	e, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var kept []posthaste.MessageID
	accept := func(size int) error {
		a := newAccept(make([]byte, size))
		err := e.Do(t.Context(), 0, a)
		if err == nil {
			kept = append(kept, a.m.ID)
		}
		return err
	}
	if err := accept(1000); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 16, 1 << 12, 1} { // until nothing fits
		for err = nil; err == nil; {
			_, err = f.Write(bytes.Repeat([]byte("x"), size))
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 20 {
		// Some fit into what the WAL has already got from the file system.
		if err := accept(50_000); err != nil {
			failed++
			if posthaste.CodeOf(err) != posthaste.CodeUnavailable || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("got %v, want unavailable because the disk is full", err)
			}
		}
	}
	if failed == 0 {
		t.Error("nothing failed on a full disk")
	}
	checkMessages(t, e, kept...)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := accept(50_000); err != nil {
			t.Fatalf("with space again: %v", err)
		}
	}
	checkMessages(t, e, kept...)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if e, err = sqlite.Open(t.Context(), sqlite.Config{Path: path}); err != nil {
		t.Fatal(err)
	}
	checkMessages(t, e, kept...)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}
