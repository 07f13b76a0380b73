package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// set gives the setting a new value: the text of a flag or variable, or what the YAML parser made of a value. If raw
// breaks the rule of the setting's type, the setting keeps its value and the error says the rule.
func (s setting) set(raw any) error {
	if !s.isList() {
		return assign(s.value, raw)
	}
	var items []any
	switch raw := raw.(type) {
	case []any:
		items = raw
	case string:
		for item := range strings.SplitSeq(raw, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	default:
		items = []any{raw}
	}
	list := reflect.MakeSlice(s.value.Type(), len(items), len(items))
	var faults []string
	for i, item := range items {
		if err := assign(list.Index(i), item); err != nil {
			faults = append(faults, fmt.Sprintf("item %d: %v", i+1, err))
		}
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	s.value.Set(list)
	return nil
}

func assign(dst reflect.Value, raw any) error {
	text, err := plain(raw)
	if err != nil {
		return fmt.Errorf("must be a single value (%s), %w", typeName(dst.Type()), err)
	}
	if dst.Type() == durationType {
		d, err := ParseDuration(text)
		if err != nil {
			return err
		}
		dst.SetInt(int64(d))
		return nil
	}
	if reflect.PointerTo(dst.Type()).Implements(textUnmarshaler) {
		fresh := reflect.New(dst.Type())
		if err := fresh.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			if dst.Type() == timeType {
				return fmt.Errorf("must be a moment such as 2006-01-02T15:04:05Z, got %q", text)
			}
			return err
		}
		dst.Set(fresh.Elem())
		return nil
	}
	switch dst.Kind() {
	case reflect.String:
		if _, ok := raw.(string); !ok {
			return fmt.Errorf("must be a string: write it in quotes, got %s", text)
		}
		dst.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false, got %q", text)
		}
		dst.SetBool(b)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, dst.Type().Bits())
		if err != nil {
			return fmt.Errorf("must be a number, got %q", text)
		}
		dst.SetFloat(f)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, dst.Type().Bits())
		if err != nil {
			return fmt.Errorf("must be a whole number from 0 to %d, got %q", ^uint64(0)>>(64-dst.Type().Bits()), text)
		}
		dst.SetUint(n)
	default:
		n, err := strconv.ParseInt(text, 10, dst.Type().Bits())
		if errors.Is(err, strconv.ErrRange) {
			limit := int64(^uint64(0) >> (65 - dst.Type().Bits()))
			return fmt.Errorf("must be a whole number from %d to %d, got %q", -limit-1, limit, text)
		}
		if err != nil {
			return fmt.Errorf("must be a whole number, got %q", text)
		}
		dst.SetInt(n)
	}
	return nil
}

// plain is the text of a scalar, as a flag or variable would write it.
func plain(raw any) (string, error) {
	switch v := raw.(type) {
	case string:
		return v, nil
	case []any:
		return "", errors.New("got a list")
	case map[string]any:
		return "", errors.New("got a section")
	case nil:
		return "", errors.New("got nothing")
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	default:
		return fmt.Sprint(v), nil
	}
}

// text is the value as a flag or variable would write it.
func (s setting) text() string {
	if !s.isList() {
		return format(s.value)
	}
	var items []string
	for i := range s.value.Len() {
		items = append(items, format(s.value.Index(i)))
	}
	return strings.Join(items, ",")
}

func format(v reflect.Value) string {
	if v.Type() == durationType {
		return FormatDuration(time.Duration(v.Int()))
	}
	if v.Type() == timeType && v.IsZero() {
		return ""
	}
	if v.CanAddr() {
		v = v.Addr()
	}
	switch t := v.Interface().(type) {
	case encoding.TextMarshaler:
		if text, err := t.MarshalText(); err == nil {
			return string(text)
		}
	case fmt.Stringer:
		return t.String()
	}
	return fmt.Sprint(reflect.Indirect(v).Interface())
}
