package text

import "reflect"

// Fields makes every string that v leads to clean: in fields, lists, maps (their keys,
// too) and behind pointers, so that a field that is added later is covered. v is a
// pointer; what is clean already is not written to. A string is one line, unless its
// field has the tag `text:"lines"`, which also counts for a list or map of strings.
// Fields that are not exported stay as they are.
func Fields(v any) { visit(reflect.ValueOf(v), oneLine) }

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

// visitMap replaces the entries of a map that are not clean. Of two keys that become
// the same one, one stays.
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

// visited returns a clean copy of what cannot be changed in its place.
func visited(v reflect.Value, passes string) reflect.Value {
	fresh := reflect.New(v.Type()).Elem()
	fresh.Set(v)
	visit(fresh, passes)
	return fresh
}

// plain tells whether values of a type are numbers or truths, which lead nowhere.
func plain(t reflect.Type) bool { return t.Kind() >= reflect.Bool && t.Kind() <= reflect.Complex128 }
