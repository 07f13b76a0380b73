// Package config fills a struct from its defaults, a YAML file, the environment and the command line, the later winning.
//
// It knows no setting itself. A caller hands it a pointer to a struct that already holds the defaults, and the struct's
// tags say the rest:
//
//	type Config struct {
//		Listen  string        `config:"listen" desc:"address to listen on"`
//		Grace   time.Duration `config:"grace" desc:"how long running attempts may finish"`
//		Limits  Limits        `config:"limits"`
//	}
//
// A field tagged config:"allow-http" is the flag --allow-http, the variable POSTHASTE_ALLOW_HTTP and the key allow-http
// of the file. A struct tagged config:"limits" is a section: its field max-body is --limits-max-body,
// POSTHASTE_LIMITS_MAX_BODY and the key max-body under limits. An embedded struct without a tag adds its fields to the
// section around it. A field without a tag is no setting. A word in back quotes inside a description names the value in
// help and documentation, as it does for package pflag.
//
// A setting may be a string, a bool, a number, a [time.Duration] (with days: 7d), a size ([Bytes]), a type that
// implements [encoding.TextUnmarshaler], or a slice of these. Flags and variables write a slice as a comma-separated
// list, and a flag may be repeated.
//
// These hold for every source:
//
//  1. A later source replaces a setting wholly; lists are not joined.
//  2. All faults are reported, also of values that a later source would have replaced, each with its source and the rule
//     it breaks. A faulty value changes nothing.
//  3. An empty environment variable, and a key of the file without a value, count as not set.
//
// A struct that breaks the rules for tags is a fault of the program, and panics.
package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// EnvPrefix begins the name of every environment variable that is a setting.
const EnvPrefix = "POSTHASTE_"

// Bind registers a flag for each setting of v, which points to a struct holding the defaults. Parsing the flags only
// records their text; [Load] judges it, so that a bad flag is reported together with every other fault.
func Bind(fs *pflag.FlagSet, v any) {
	for _, s := range settings(v) {
		f := fs.VarPF(&flagValue{typ: s.typ, text: s.text(), list: s.isList()}, s.flag, "", s.desc)
		if s.typ == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// Load fills v, which points to a struct holding the defaults, from the YAML file at path, the environment (in the form
// of [os.Environ]) and the flags of fs that were given on the command line. There is no file if path is empty, and no
// flags if fs is nil; a setting without a flag in fs is filled from the other sources.
//
// A key of the file that is no setting is a fault. An unknown variable is not: others live under the same prefix. The
// error joins all faults.
func Load(v any, fs *pflag.FlagSet, path string, environ []string) error {
	return load(v, fs, path, environ, true)
}

// Peek is [Load] for a few settings that must be known before the defaults of the others are: it ignores keys of the
// file that are no settings of v.
func Peek(v any, fs *pflag.FlagSet, path string, environ []string) error {
	return load(v, fs, path, environ, false)
}

func load(v any, fs *pflag.FlagSet, path string, environ []string, strict bool) error {
	all := settings(v)
	var faults []error
	if path != "" {
		faults = append(faults, loadFile(all, path, strict)...)
	}
	env := make(map[string]string)
	for _, kv := range environ {
		if name, text, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			env[name] = text
		}
	}
	for _, s := range all {
		if text := env[s.env]; text != "" {
			if err := s.set(text); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", s.env, err))
			}
		}
	}
	for _, s := range all {
		if fs == nil {
			break
		}
		if f := fs.Lookup(s.flag); f != nil && f.Changed {
			if err := s.set(f.Value.String()); err != nil {
				faults = append(faults, fmt.Errorf("--%s: %w", s.flag, err))
			}
		}
	}
	return errors.Join(faults...)
}

func loadFile(all []setting, path string, strict bool) []error {
	k := koanf.New(".")
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return []error{fmt.Errorf("%s: %w", path, err)}
	}
	var faults []error
	for _, key := range k.Keys() {
		raw := k.Get(key)
		i := slices.IndexFunc(all, func(s setting) bool { return s.key == key })
		var err error
		switch {
		case i >= 0 && raw != nil:
			err = all[i].set(raw)
		case i < 0 && strict:
			err = unknown(all, key, raw)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %s: %w", path, key, err))
		}
	}
	return faults
}

// unknown says what is wrong with a key of the file that is no setting, or nil if it is an empty section.
func unknown(all []setting, key string, raw any) error {
	var near string
	best := -1
	for _, s := range all {
		if strings.HasPrefix(s.key, key+".") {
			if m, ok := raw.(map[string]any); raw == nil || ok && len(m) == 0 {
				return nil
			}
			return fmt.Errorf("must be a section, with keys such as %q", strings.TrimPrefix(s.key, key+"."))
		}
		if strings.HasPrefix(key, s.key+".") {
			return fmt.Errorf("unknown key: %q is a single value, not a section", s.key)
		}
		if d := distance(key, s.key); best < 0 || d < best {
			near, best = s.key, d
		}
	}
	if best < 0 {
		return errors.New("unknown key")
	}
	return fmt.Errorf("unknown key; the nearest known key is %q", near)
}

// distance says how far an unknown key is from a known one. The last part counts more than the sections before it, so
// that a key in the wrong section is recognised.
func distance(unknown, known string) int {
	norm := strings.NewReplacer("_", "-", " ", "-")
	a, b := norm.Replace(strings.ToLower(unknown)), norm.Replace(strings.ToLower(known))
	last := func(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }
	return edits(a, b) + 2*edits(last(a), last(b))
}

// edits is the Levenshtein distance of two strings.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// flagValue records what the command line says, and judges nothing.
type flagValue struct {
	typ  string
	text string
	list bool
	set  bool
}

func (f *flagValue) Set(text string) error {
	if f.list && f.set {
		text = f.text + "," + text
	}
	f.text, f.set = text, true
	return nil
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return f.typ }
