package text

import "reflect"

// Fields cleans every string that v, a pointer, leads to: in fields, lists, maps and their keys, and
// behind pointers. A field that is added later is so covered, too. A string becomes one line, unless
// its field has the tag `text:"lines"`, which also applies to a list or map of strings. Unexported
// fields stay as they are, and clean strings are not written to.
func Fields(v any) { visit(reflect.ValueOf(v), oneLine) }

// visit cleans a value; passes are the hidden runes that pass.
func visit(v reflect.Value, passes string) {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); v.CanSet() && dirt(s, passes) < len(s) {
			v.SetString(clean(s, passes))
		}
	case reflect.Pointer:
		visit(v.Elem(), passes)
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.Tag.Get("text") == "lines" {
				visit(v.Field(i), lines)
			} else if field.IsExported() {
				visit(v.Field(i), oneLine)
			}
		}
	case reflect.Slice, reflect.Array:
		if plain(v.Type().Elem()) {
			return
		}
		for i := range v.Len() {
			visit(v.Index(i), passes)
		}
	case reflect.Map:
		visitMap(v, passes)
	case reflect.Interface:
		if !v.IsNil() && v.CanSet() {
			v.Set(visited(v.Elem(), passes))
		}
	}
}

// visitMap replaces the entries of a map that are not clean. If two keys become equal, one entry is
// lost.
func visitMap(m reflect.Value, passes string) {
	for _, key := range m.MapKeys() {
		value := m.MapIndex(key)
		k, v := visited(key, oneLine), visited(value, passes)
		if !k.Equal(key) {
			m.SetMapIndex(key, reflect.Value{})
		} else if v.Comparable() && v.Equal(value) {
			continue
		}
		m.SetMapIndex(k, v)
	}
}

// visited returns a clean copy of a value that cannot be changed in place.
func visited(v reflect.Value, passes string) reflect.Value {
	fresh := reflect.New(v.Type()).Elem()
	fresh.Set(v)
	visit(fresh, passes)
	return fresh
}

// plain reports whether values of a type are numbers or booleans, which lead to no string.
func plain(t reflect.Type) bool { return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128 }
