// Package hostile is for tests: it has text that attacks the terminal that shows it, and a check for
// output that contains such text. It is the oracle of package text: its list of dangerous characters
// is its own, so that a mistake in package text shows.
package hostile

import (
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Text attacks a terminal in every way that a JSON string can carry: a title by OSC, colours by CSI in
// both forms, BEL, BS, CR, NUL, DEL, a forged line, bidi marks.
const Text = "a\x1b]0;title\x07\x1b[31m\u009b31m\u009d0;title\u009c\b\r\x00\x7f\u0085\nforged line\t" +
	"\u202e\u202a\u2066\u2069\u200e\u200f\u061cz"

// Bytes is Text with bytes that are not UTF-8, CSI and OSC in ISO 8859-1 among them.
const Bytes = Text + "\x9b31m\x9d\xff\xe2\x80"

// Fault describes the first dangerous character in an output; it is empty if there is none.
func Fault(out string) string {
	for i, r := range out {
		switch {
		case r == '\n' || r == '\t':
		case r == utf8.RuneError && out[i] != 0xef:
			return fmt.Sprintf("byte %#x, not UTF-8, at %d of %q", out[i], i, out)
		case r < 0x20, r >= 0x7f && r <= 0x9f, // C0, DEL, C1
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, // bidi
			r == 0x200e, r == 0x200f, r == 0x61c:
			return fmt.Sprintf("%U at %d of %q", r, i, out)
		}
	}
	return ""
}

// Fill puts Text into every string that v, a pointer, leads to, and a value that is not zero into
// everything else: lists and maps get an element, pointers a target.
func Fill(v any) { fill(reflect.ValueOf(v).Elem()) }

// fill is Fill for one value.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(Text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	default:
		panic("no way to fill " + v.Type().String())
	}
}
