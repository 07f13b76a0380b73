package store

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/posthaste/posthaste"
)

// The records of this file are what both engines keep in their data columns. A record is a sequence of fields; a field is a
// tag (number*2, plus 1 if a length and bytes follow instead of a varint) and its value. Fields that are zero are left out,
// and readers pass over tags they do not know, so a field may be added without touching what is stored. A number is never
// given to another field.
//
// Times are microseconds, UTC. Strings of a decoded value share one allocation, the copy of the record.

// errRecord says that a stored record is not one. It means damage, or a newer program that did not raise the schema's version.
var errRecord = errors.New("store: malformed record")

// AppendMessage appends the record of m to b: everything but ID, Tenant, Body and ClaimedAtOnce, which are columns.
func AppendMessage(b []byte, m *posthaste.Message) []byte {
	b = appendString(b, 1, m.URL)
	b = appendString(b, 2, m.Group)
	b = appendString(b, 3, m.Endpoint)
	b = appendString(b, 4, m.API)
	b = appendString(b, 5, m.Method)
	b = appendHeader(b, 6, m.Header)
	b = appendInt(b, 7, int64(m.MaxRetries))
	b = appendString(b, 8, m.RetryDelay)
	b = appendInt(b, 9, int64(m.Timeout))
	b = appendTime(b, 10, m.CreatedAt)
	b = appendInt(b, 11, int64(m.Delay))
	b = appendTime(b, 12, m.NotBefore)
	b = appendCallback(b, 13, m.Callback)
	b = appendCallback(b, 14, m.FailureCallback)
	b = appendString(b, 15, m.Queue)
	b = appendString(b, 16, string(m.Schedule))
	for i := range m.Flow {
		b = appendFlow(b, 17, &m.Flow[i])
	}
	b = appendInt(b, 18, int64(m.Priority))
	b = appendStrings(b, 19, m.Labels)
	b = appendBool(b, 20, m.Redact.Body)
	b = appendBool(b, 21, m.Redact.Headers)
	b = appendStrings(b, 22, m.Redact.Names)
	b = appendString(b, 23, m.CallerIP)
	b = appendString(b, 24, string(m.Source))
	b = appendString(b, 25, m.Run)
	b = appendInt(b, 26, m.Sequence)
	b = appendString(b, 27, m.CallType)
	return appendBool(b, 28, m.Stripped)
}

// DecodeMessage sets the fields of m that the record holds. Those that [AppendMessage] leaves out keep their values; the
// others are to be zero. m does not keep b.
func DecodeMessage(b []byte, m *posthaste.Message) error {
	r := fields{s: string(b)}
	for r.next() {
		switch r.tag {
		case 1<<1 | 1:
			m.URL = r.text
		case 2<<1 | 1:
			m.Group = r.text
		case 3<<1 | 1:
			m.Endpoint = r.text
		case 4<<1 | 1:
			m.API = r.text
		case 5<<1 | 1:
			m.Method = r.text
		case 6<<1 | 1:
			m.Header = r.header(m.Header)
		case 7 << 1:
			m.MaxRetries = int(r.int())
		case 8<<1 | 1:
			m.RetryDelay = r.text
		case 9 << 1:
			m.Timeout = time.Duration(r.int())
		case 10 << 1:
			m.CreatedAt = r.time()
		case 11 << 1:
			m.Delay = time.Duration(r.int())
		case 12 << 1:
			m.NotBefore = r.time()
		case 13<<1 | 1:
			m.Callback = r.callback()
		case 14<<1 | 1:
			m.FailureCallback = r.callback()
		case 15<<1 | 1:
			m.Queue = r.text
		case 16<<1 | 1:
			m.Schedule = posthaste.ScheduleID(r.text)
		case 17<<1 | 1:
			m.Flow = append(m.Flow, r.flow())
		case 18 << 1:
			m.Priority = int(r.int())
		case 19<<1 | 1:
			m.Labels = append(m.Labels, r.text)
		case 20 << 1:
			m.Redact.Body = r.num != 0
		case 21 << 1:
			m.Redact.Headers = r.num != 0
		case 22<<1 | 1:
			m.Redact.Names = append(m.Redact.Names, r.text)
		case 23<<1 | 1:
			m.CallerIP = r.text
		case 24<<1 | 1:
			m.Source = posthaste.MessageID(r.text)
		case 25<<1 | 1:
			m.Run = r.text
		case 26 << 1:
			m.Sequence = r.int()
		case 27<<1 | 1:
			m.CallType = r.text
		case 28 << 1:
			m.Stripped = r.num != 0
		}
	}
	return r.err()
}

// AppendTicket appends the record of t to b: everything but ID, Tenant and Stored.
func AppendTicket(b []byte, t *Ticket) []byte {
	b = appendString(b, 1, t.Host)
	b = appendUint(b, 2, uint64(t.Phase))
	for i := range t.Path {
		b = appendRef(b, 3, &t.Path[i])
	}
	b = appendUint(b, 4, uint64(t.Priority))
	b = appendTime(b, 5, t.Due)
	if t.ParkedAt != (GateRef{}) {
		b = appendRef(b, 6, &t.ParkedAt)
	}
	b = appendUint(b, 7, uint64(t.Rank))
	b = appendInt(b, 8, t.Place)
	b = appendInt(b, 9, t.Arrived)
	b = appendInt(b, 10, int64(t.Attempt))
	b = appendString(b, 11, t.Node.Node)
	b = appendInt(b, 12, t.Node.Epoch)
	b = appendInt(b, 13, t.Fence)
	b = appendTime(b, 14, t.StartedAt)
	b = appendBool(b, 15, t.Cancel)
	b = appendString(b, 16, string(t.Slot.Source))
	if t.Slot.Queue != (GateRef{}) {
		b = appendRef(b, 17, &t.Slot.Queue)
	}
	b = appendInt(b, 18, t.Slot.Gen)
	b = appendInt(b, 19, t.Gen)
	return appendBool(b, 20, t.AtOnce)
}

// DecodeTicket sets the fields of t that the record holds. ID, Tenant and Stored keep their values; the others are to be
// zero. t does not keep b.
func DecodeTicket(b []byte, t *Ticket) error {
	r := fields{s: string(b)}
	for r.next() {
		switch r.tag {
		case 1<<1 | 1:
			t.Host = r.text
		case 2 << 1:
			t.Phase = posthaste.Phase(r.num)
		case 3<<1 | 1:
			t.Path = append(t.Path, r.ref())
		case 4 << 1:
			t.Priority = uint8(r.num)
		case 5 << 1:
			t.Due = r.time()
		case 6<<1 | 1:
			t.ParkedAt = r.ref()
		case 7 << 1:
			t.Rank = uint8(r.num)
		case 8 << 1:
			t.Place = r.int()
		case 9 << 1:
			t.Arrived = r.int()
		case 10 << 1:
			t.Attempt = int(r.int())
		case 11<<1 | 1:
			t.Node.Node = r.text
		case 12 << 1:
			t.Node.Epoch = r.int()
		case 13 << 1:
			t.Fence = r.int()
		case 14 << 1:
			t.StartedAt = r.time()
		case 15 << 1:
			t.Cancel = r.num != 0
		case 16<<1 | 1:
			t.Slot.Source = posthaste.MessageID(r.text)
		case 17<<1 | 1:
			t.Slot.Queue = r.ref()
		case 18 << 1:
			t.Slot.Gen = r.int()
		case 19 << 1:
			t.Gen = r.int()
		case 20 << 1:
			t.AtOnce = r.num != 0
		}
	}
	return r.err()
}

// AppendGate appends the record of g to b: everything but its key.
func AppendGate(b []byte, g *Gate) []byte {
	b = appendInt(b, 1, g.Gen)
	b = appendBool(b, 2, g.Paused)
	b = appendInt(b, 3, int64(g.Parallelism))
	b = appendInt(b, 4, int64(g.Rate))
	b = appendInt(b, 5, int64(g.Period))
	b = appendBool(b, 6, g.PinnedParallelism)
	b = appendBool(b, 7, g.PinnedRate)
	b = appendInt(b, 8, int64(g.InUse))
	b = appendTime(b, 9, g.WindowStart)
	b = appendInt(b, 10, int64(g.WindowUsed))
	b = appendInt(b, 11, g.Waiting)
	b = appendInt(b, 12, g.Live)
	b = appendInt(b, 13, g.NextSeq)
	b = appendTime(b, 14, g.CreatedAt)
	b = appendTime(b, 15, g.UpdatedAt)
	return appendTime(b, 16, g.TouchedAt)
}

// DecodeGate sets the fields of g that the record holds. GateRef keeps its value; the others are to be zero. g does not
// keep b.
func DecodeGate(b []byte, g *Gate) error {
	r := fields{s: string(b)}
	for r.next() {
		switch r.tag {
		case 1 << 1:
			g.Gen = r.int()
		case 2 << 1:
			g.Paused = r.num != 0
		case 3 << 1:
			g.Parallelism = int(r.int())
		case 4 << 1:
			g.Rate = int(r.int())
		case 5 << 1:
			g.Period = time.Duration(r.int())
		case 6 << 1:
			g.PinnedParallelism = r.num != 0
		case 7 << 1:
			g.PinnedRate = r.num != 0
		case 8 << 1:
			g.InUse = int(r.int())
		case 9 << 1:
			g.WindowStart = r.time()
		case 10 << 1:
			g.WindowUsed = int(r.int())
		case 11 << 1:
			g.Waiting = r.int()
		case 12 << 1:
			g.Live = r.int()
		case 13 << 1:
			g.NextSeq = r.int()
		case 14 << 1:
			g.CreatedAt = r.time()
		case 15 << 1:
			g.UpdatedAt = r.time()
		case 16 << 1:
			g.TouchedAt = r.time()
		}
	}
	return r.err()
}

// AppendTick appends the record of t to b: everything but its key and Next, which are columns.
func AppendTick(b []byte, t *Tick) []byte {
	b = appendTime(b, 1, t.Last)
	for _, id := range t.Made {
		b = append(binary.AppendUvarint(appendTag(b, 2, 1), uint64(len(id))), id...)
	}
	b = appendString(b, 3, t.Error)
	return appendInt(b, 4, t.Rev)
}

// DecodeTick sets the fields of t that the record holds. TickRef and Next keep their values; the others are to be zero.
// t does not keep b.
func DecodeTick(b []byte, t *Tick) error {
	r := fields{s: string(b)}
	for r.next() {
		switch r.tag {
		case 1 << 1:
			t.Last = r.time()
		case 2<<1 | 1:
			t.Made = append(t.Made, posthaste.MessageID(r.text))
		case 3<<1 | 1:
			t.Error = r.text
		case 4 << 1:
			t.Rev = r.int()
		}
	}
	return r.err()
}

// AppendAttempt appends the record of a to b: everything but Tenant, Message, Number, StartedAt, EndedAt and AtOnce, which
// are columns.
func AppendAttempt(b []byte, a *posthaste.Attempt) []byte {
	if n := indexOf(outcomes[:], a.Outcome); n > 0 {
		b = appendUint(b, 1, uint64(n))
	} else {
		b = appendString(b, 2, string(a.Outcome))
	}
	b = appendInt(b, 3, int64(a.Status))
	b = appendString(b, 4, a.Error)
	b = appendHeader(b, 5, a.Header)
	b = appendBytes(b, 6, a.Body)
	if n := indexOf(states[:], a.State); n > 0 {
		b = appendUint(b, 7, uint64(n))
	} else {
		b = appendString(b, 8, string(a.State))
	}
	b = appendTime(b, 9, a.NextAt)
	return appendInt(b, 10, int64(a.Took))
}

// DecodeAttempt sets the fields of a that the record holds. Those that [AppendAttempt] leaves out keep their values; the
// others are to be zero. a does not keep b.
func DecodeAttempt(b []byte, a *posthaste.Attempt) error {
	r := fields{s: string(b)}
	for r.next() {
		r.attempt(a)
	}
	return r.err()
}

// attempt sets what the current field of an attempt's record says.
func (r *fields) attempt(a *posthaste.Attempt) {
	switch r.tag {
	case 1 << 1:
		if r.num < uint64(len(outcomes)) {
			a.Outcome = outcomes[r.num]
		}
	case 2<<1 | 1:
		a.Outcome = posthaste.Outcome(r.text)
	case 3 << 1:
		a.Status = int(r.int())
	case 4<<1 | 1:
		a.Error = r.text
	case 5<<1 | 1:
		a.Header = r.header(a.Header)
	case 6<<1 | 1:
		a.Body = []byte(r.text)
	case 7 << 1:
		if r.num < uint64(len(states)) {
			a.State = states[r.num]
		}
	case 8<<1 | 1:
		a.State = posthaste.LogState(r.text)
	case 9 << 1:
		a.NextAt = r.time()
	case 10 << 1:
		a.Took = time.Duration(r.int())
	}
}

// AppendDeadLetter appends the record of d to b: At, and the last attempt whole. ID, Tenant and Message are columns.
func AppendDeadLetter(b []byte, d *posthaste.DeadLetter) []byte {
	b = appendTime(b, 1, d.At)
	b = append(b, 2<<1|1)
	start := len(b)
	b = append(b, 0)
	b = AppendAttempt(b, &d.Last)
	b = appendInt(b, 32, int64(d.Last.Tenant))
	b = appendString(b, 33, string(d.Last.Message))
	b = appendInt(b, 34, int64(d.Last.Number))
	b = appendTime(b, 35, d.Last.StartedAt)
	b = appendTime(b, 36, d.Last.EndedAt)
	b = appendBool(b, 37, d.Last.AtOnce)
	return closeLength(b, start)
}

// DecodeDeadLetter sets At and Last of d, which are to be zero. ID, Tenant and Message keep their values. d does not keep b.
func DecodeDeadLetter(b []byte, d *posthaste.DeadLetter) error {
	r := fields{s: string(b)}
	for r.next() {
		switch r.tag {
		case 1 << 1:
			d.At = r.time()
		case 2<<1 | 1:
			in, a := fields{s: r.text}, &d.Last
			for in.next() {
				switch in.tag {
				case 32 << 1:
					a.Tenant = posthaste.TenantID(in.int())
				case 33<<1 | 1:
					a.Message = posthaste.MessageID(in.text)
				case 34 << 1:
					a.Number = int(in.int())
				case 35 << 1:
					a.StartedAt = in.time()
				case 36 << 1:
					a.EndedAt = in.time()
				case 37 << 1:
					a.AtOnce = in.num != 0
				default:
					in.attempt(a)
				}
			}
			r.bad = r.bad || in.bad
		}
	}
	return r.err()
}

// outcomes and states number the values of closed sets. The place in the list is the stored number: only append.
var (
	outcomes = [...]posthaste.Outcome{
		"", posthaste.OutcomeDelivered, posthaste.OutcomeStatus, posthaste.OutcomeNonRetryable, posthaste.OutcomeTimeout,
		posthaste.OutcomeDNS, posthaste.OutcomeConnect, posthaste.OutcomeTLS, posthaste.OutcomeRefused,
		posthaste.OutcomeProtocol, posthaste.OutcomeReset,
	}
	states = [...]posthaste.LogState{
		"", posthaste.StateCreated, posthaste.StateActive, posthaste.StateDelivered, posthaste.StateError,
		posthaste.StateRetry, posthaste.StateFailed, posthaste.StateCancelRequested, posthaste.StateCanceled,
	}
)

func indexOf[T comparable](list []T, v T) int {
	for i := range list {
		if list[i] == v {
			return i
		}
	}
	return -1
}

func appendTag(b []byte, field, kind uint64) []byte {
	if tag := field<<1 | kind; tag < 0x80 {
		return append(b, byte(tag))
	}
	return binary.AppendUvarint(b, field<<1|kind)
}

func appendUint(b []byte, field, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(appendTag(b, field, 0), v)
}

func appendInt(b []byte, field uint64, v int64) []byte {
	return appendUint(b, field, uint64(v)<<1^uint64(v>>63))
}

func appendBool(b []byte, field uint64, v bool) []byte {
	if !v {
		return b
	}
	return append(appendTag(b, field, 0), 1)
}

// appendTime writes 0 for 1970, because only the zero time is left out.
func appendTime(b []byte, field uint64, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	us := t.UnixMicro()
	return binary.AppendUvarint(appendTag(b, field, 0), uint64(us)<<1^uint64(us>>63))
}

func appendString(b []byte, field uint64, s string) []byte {
	if s == "" {
		return b
	}
	return append(binary.AppendUvarint(appendTag(b, field, 1), uint64(len(s))), s...)
}

func appendBytes(b []byte, field uint64, s []byte) []byte {
	if len(s) == 0 {
		return b
	}
	return append(binary.AppendUvarint(appendTag(b, field, 1), uint64(len(s))), s...)
}

// appendStrings keeps empty ones: they are elements.
func appendStrings(b []byte, field uint64, list []string) []byte {
	for _, s := range list {
		b = append(binary.AppendUvarint(appendTag(b, field, 1), uint64(len(s))), s...)
	}
	return b
}

// closeLength sets the length of what was appended after the byte at start, which was kept free for it.
func closeLength(b []byte, start int) []byte {
	n := len(b) - start - 1
	if n < 0x80 {
		b[start] = byte(n)
		return b
	}
	var prefix [binary.MaxVarintLen64]byte
	k := binary.PutUvarint(prefix[:], uint64(n))
	b = append(b, prefix[:k-1]...)
	copy(b[start+k:], b[start+1:start+1+n])
	copy(b[start:], prefix[:k])
	return b
}

// appendHeader writes a field per name: the name and its values, each with its length.
func appendHeader(b []byte, field uint64, h posthaste.Header) []byte {
	for name, values := range h {
		b = appendTag(b, field, 1)
		start := len(b)
		b = append(b, 0)
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
		for _, v := range values {
			b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
		}
		b = closeLength(b, start)
	}
	return b
}

func appendFlow(b []byte, field uint64, f *posthaste.FlowControl) []byte {
	b = appendTag(b, field, 1)
	start := len(b)
	b = append(b, 0)
	b = appendString(b, 1, f.Key)
	b = appendInt(b, 2, int64(f.Parallelism))
	b = appendInt(b, 3, int64(f.Rate))
	b = appendInt(b, 4, int64(f.Period))
	return closeLength(b, start)
}

func appendCallback(b []byte, field uint64, c *posthaste.Callback) []byte {
	if c == nil {
		return b
	}
	b = appendTag(b, field, 1)
	start := len(b)
	b = append(b, 0)
	b = appendString(b, 1, c.URL)
	b = appendString(b, 2, c.Method)
	b = appendHeader(b, 3, c.Header)
	if c.Retries != nil {
		v := int64(*c.Retries)
		b = binary.AppendUvarint(appendTag(b, 4, 0), uint64(v)<<1^uint64(v>>63))
	}
	b = appendString(b, 5, c.RetryDelay)
	b = appendInt(b, 6, int64(c.Timeout))
	b = appendInt(b, 7, int64(c.Delay))
	for i := range c.Flow {
		b = appendFlow(b, 8, &c.Flow[i])
	}
	return closeLength(b, start)
}

func appendRef(b []byte, field uint64, g *GateRef) []byte {
	b = appendTag(b, field, 1)
	start := len(b)
	b = append(b, 0)
	b = appendInt(b, 1, int64(g.Shard))
	b = appendUint(b, 2, uint64(g.Kind))
	b = appendInt(b, 3, int64(g.Tenant))
	b = appendString(b, 4, g.Name)
	return closeLength(b, start)
}

// fields walks over a record. After next returned true, the current field is in tag, and in num or text.
type fields struct {
	s    string
	tag  uint64
	num  uint64
	text string
	bad  bool
}

func (r *fields) err() error {
	if r.bad {
		return errRecord
	}
	return nil
}

func (r *fields) next() bool {
	if r.s == "" || r.bad {
		return false
	}
	if c := r.s[0]; c < 0x80 {
		r.tag, r.s = uint64(c), r.s[1:]
	} else {
		r.tag = r.uvarint()
	}
	r.num = r.uvarint()
	if r.bad {
		return false
	}
	if r.tag&1 == 0 {
		return true
	}
	if r.num > uint64(len(r.s)) {
		r.bad = true
		return false
	}
	r.text, r.s = r.s[:r.num], r.s[r.num:]
	return true
}

func (r *fields) uvarint() uint64 {
	var v uint64
	for i := 0; i < len(r.s) && i < binary.MaxVarintLen64; i++ {
		c := r.s[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			break
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.s = r.s[i+1:]
			return v
		}
	}
	r.bad = true
	return 0
}

func (r *fields) int() int64 { return int64(r.num>>1) ^ -int64(r.num&1) }

func (r *fields) time() time.Time { return time.UnixMicro(r.int()).UTC() }

// cut takes a length and so many bytes off the front of in.
func (r *fields) cut(in *fields) string {
	n := in.uvarint()
	if in.bad || n > uint64(len(in.s)) {
		r.bad = true
		return ""
	}
	s := in.s[:n]
	in.s = in.s[n:]
	return s
}

func (r *fields) header(h posthaste.Header) posthaste.Header {
	in := fields{s: r.text}
	name := r.cut(&in)
	// Most fields have one value: it needs no more than its own slice.
	var values []string
	for in.s != "" && !r.bad {
		v := r.cut(&in)
		if values == nil && in.s == "" {
			values = []string{v}
			break
		}
		values = append(values, v)
	}
	if r.bad {
		return h
	}
	if h == nil {
		h = make(posthaste.Header)
	}
	h[name] = values
	return h
}

func (r *fields) flow() posthaste.FlowControl {
	var f posthaste.FlowControl
	in := fields{s: r.text}
	for in.next() {
		switch in.tag {
		case 1<<1 | 1:
			f.Key = in.text
		case 2 << 1:
			f.Parallelism = int(in.int())
		case 3 << 1:
			f.Rate = int(in.int())
		case 4 << 1:
			f.Period = time.Duration(in.int())
		}
	}
	r.bad = r.bad || in.bad
	return f
}

func (r *fields) callback() *posthaste.Callback {
	c := new(posthaste.Callback)
	in := fields{s: r.text}
	for in.next() {
		switch in.tag {
		case 1<<1 | 1:
			c.URL = in.text
		case 2<<1 | 1:
			c.Method = in.text
		case 3<<1 | 1:
			c.Header = in.header(c.Header)
		case 4 << 1:
			c.Retries = new(int(in.int()))
		case 5<<1 | 1:
			c.RetryDelay = in.text
		case 6 << 1:
			c.Timeout = time.Duration(in.int())
		case 7 << 1:
			c.Delay = time.Duration(in.int())
		case 8<<1 | 1:
			c.Flow = append(c.Flow, in.flow())
		}
	}
	r.bad = r.bad || in.bad
	return c
}

func (r *fields) ref() GateRef {
	var g GateRef
	in := fields{s: r.text}
	for in.next() {
		switch in.tag {
		case 1 << 1:
			g.Shard = int16(in.int())
		case 2 << 1:
			g.Kind = Kind(in.num)
		case 3 << 1:
			g.Tenant = posthaste.TenantID(in.int())
		case 4<<1 | 1:
			g.Name = in.text
		}
	}
	r.bad = r.bad || in.bad
	return g
}
