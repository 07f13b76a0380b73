// Package disk measures how long the disk takes to make a small write durable. It is the unit in which the latency of
// a durable server is read: a server cannot acknowledge a message sooner than its disk can keep it.
package disk

import (
	"fmt"
	"os"
	"time"
)

const (
	blockSize = 4 << 10
	fileSize  = 1 << 20
)

// Probe makes synced writes to a file of its own.
type Probe struct {
	f     *os.File
	block []byte
	at    int64
}

// NewProbe creates the file of a probe in dir, at its full size, so that a write changes no metadata but times, as in
// a log that is used again. Close removes it.
func NewProbe(dir string) (*Probe, error) {
	f, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return nil, err
	}
	p := &Probe{f: f, block: make([]byte, blockSize)}
	for i := range p.block {
		p.block[i] = byte(i)
	}
	for at := int64(0); at < fileSize; at += blockSize {
		if _, err := f.WriteAt(p.block, at); err != nil {
			_ = p.Close()
			return nil, fmt.Errorf("fill the probe file: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("fill the probe file: %w", err)
	}
	return p, nil
}

// Write writes one block of 4 KiB, waits until it is on disk (fdatasync), and returns how long that took.
func (p *Probe) Write() (time.Duration, error) {
	p.block[0]++
	start := time.Now()
	if _, err := p.f.WriteAt(p.block, p.at); err != nil {
		return 0, fmt.Errorf("probe the disk: %w", err)
	}
	if err := datasync(p.f); err != nil {
		return 0, fmt.Errorf("probe the disk: %w", err)
	}
	took := time.Since(start)
	p.at = (p.at + blockSize) % fileSize
	return took, nil
}

// Series returns the times of n writes.
func (p *Probe) Series(n int) ([]time.Duration, error) {
	times := make([]time.Duration, n)
	for i := range times {
		t, err := p.Write()
		if err != nil {
			return nil, err
		}
		times[i] = t
	}
	return times, nil
}

// Close removes the file.
func (p *Probe) Close() error {
	if err := p.f.Close(); err != nil {
		return err
	}
	return os.Remove(p.f.Name())
}
