package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Setting describes one setting of a struct, for documentation.
type Setting struct {
	Name        string // its words joined by dashes, such as limits-max-body
	Flag        string // the name with two dashes before it
	Env         string // the environment variable
	Key         string // the path in the YAML file, its parts joined by dots
	Type        string // string, bool, int, float, duration, size, list, or a word of the setting's own
	Default     string // as it would be written; empty if there is none
	Description string
}

// Describe lists the settings of v, which points to a struct holding the defaults, in the order of its fields.
func Describe(v any) []Setting {
	var out []Setting
	for _, s := range settings(v) {
		typ, desc := s.typ, s.desc
		if word, plain := pflag.UnquoteUsage(&pflag.Flag{Usage: desc, Value: &flagValue{typ: "any"}}); plain != desc {
			typ, desc = word, plain
		}
		out = append(out, Setting{
			Name: s.flag, Flag: "--" + s.flag, Env: s.env, Key: s.key,
			Type: typ, Default: s.text(), Description: desc,
		})
	}
	return out
}

// Markdown renders settings as a table.
func Markdown(settings []Setting) string {
	var b strings.Builder
	b.WriteString("| Flag | Environment | File | Type | Default | Meaning |\n|---|---|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	code := func(s string) string {
		if s == "" {
			return ""
		}
		return "`" + cell.Replace(s) + "`"
	}
	for _, s := range settings {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n",
			code(s.Flag), code(s.Env), code(s.Key), cell.Replace(s.Type), code(s.Default), cell.Replace(s.Description))
	}
	return b.String()
}

// setting is one field of the caller's struct and its names.
type setting struct {
	key   string // limits.max-body
	flag  string // limits-max-body
	env   string // POSTHASTE_LIMITS_MAX_BODY
	typ   string
	desc  string
	value reflect.Value // addressable
}

func settings(v any) []setting {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: got %T, want a pointer to a struct", v))
	}
	all := collect(nil, p.Elem(), "")
	seen := make(map[string]string)
	for _, s := range all {
		if other, ok := seen[s.flag]; ok {
			panic(fmt.Sprintf("config: %s and %s are both the flag --%s", other, s.key, s.flag))
		}
		seen[s.flag] = s.key
	}
	return all
}

func collect(all []setting, v reflect.Value, prefix string) []setting {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name, tagged := f.Tag.Lookup("config")
		switch {
		case !tagged && f.Anonymous && f.Type.Kind() == reflect.Struct:
			all = collect(all, v.Field(i), prefix)
			continue
		case !tagged || name == "-":
			continue
		case name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			panic(fmt.Sprintf("config: %s.%s: the key %q must be lower-case words joined by dashes", v.Type(), f.Name, name))
		case !f.IsExported():
			panic(fmt.Sprintf("config: %s.%s: a setting must be exported", v.Type(), f.Name))
		}
		typ := typeName(f.Type)
		if typ == "" && f.Type.Kind() == reflect.Struct {
			all = collect(all, v.Field(i), prefix+name+".")
			continue
		}
		if typ == "" {
			panic(fmt.Sprintf("config: %s.%s: a setting cannot be a %s", v.Type(), f.Name, f.Type))
		}
		key := prefix + name
		flag := strings.ReplaceAll(key, ".", "-")
		all = append(all, setting{
			key:   key,
			flag:  flag,
			env:   EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_")),
			typ:   typ,
			desc:  f.Tag.Get("desc"),
			value: v.Field(i),
		})
	}
	return all
}

var (
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	durationType    = reflect.TypeFor[time.Duration]()
	bytesType       = reflect.TypeFor[Bytes]()
	timeType        = reflect.TypeFor[time.Time]()
)

// typeName is the word for a type in help and documentation, empty if no setting can have the type.
func typeName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == bytesType:
		return "size"
	case t == timeType:
		return "time"
	case reflect.PointerTo(t).Implements(textUnmarshaler):
		return strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "int"
	case reflect.Float32, reflect.Float64:
		return "float"
	case reflect.Slice:
		if e := typeName(t.Elem()); e != "" && e != "list" {
			return "list"
		}
	}
	return ""
}

func (s setting) isList() bool { return s.typ == "list" }
