package telemetry

import (
	"fmt"
	"io"
	"log/slog"
)

// Format is how log records are written.
type Format string

// The formats. The zero value is FormatText.
const (
	FormatText Format = "text" // for people at a terminal: the time of day, then key=value
	FormatJSON Format = "json" // for machines: an object a line
)

// UnmarshalText accepts the name of a format.
func (f *Format) UnmarshalText(text []byte) error {
	switch Format(text) {
	case FormatText, FormatJSON:
		*f = Format(text)
		return nil
	default:
		return fmt.Errorf("must be %s or %s, got %q", FormatText, FormatJSON, text)
	}
}

// LogConfig says what is logged, and how.
type LogConfig struct {
	// Level is the lowest level that is logged; the zero value is info.
	Level slog.Level `config:"level" desc:"lowest level that is logged: debug, info, warn or error"`
	// Format is text unless it says otherwise.
	Format Format `config:"format" desc:"how log records are written: text or json"`
}

// NewLogger returns a logger that writes to w. Durations read the same in both formats, such as 1.5s.
func NewLogger(w io.Writer, cfg LogConfig) *slog.Logger {
	if cfg.Format == FormatJSON {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{
			Level: cfg.Level,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Value.Kind() == slog.KindDuration {
					a.Value = slog.StringValue(a.Value.Duration().String())
				}
				return a
			},
		}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: cfg.Level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 && a.Value.Kind() == slog.KindTime {
				a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
			}
			return a
		},
	}))
}
