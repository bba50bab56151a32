package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"example.org/meshd/configs"
	"example.org/meshd/internal/budget"
)

// The schema by which editors judge a file is made here, of known and shapes; what it says to people comes
// from the manual page.

const schemaFile = "../../configs/mesh.schema.json"

type object = map[string]any

// schema returns the schema of the whole file. Draft 7 is what editors of TOML know.
func schema(says map[string]string) object {
	s := tableOf("", says)
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = "mesh.toml"
	s["description"] = "The file that all hosts of a mesh have: mesh.toml(5)."
	s["required"] = []string{"network", nodeKey}
	sealed := object{"required": []string{"network"}, "properties": object{"network": object{
		"required": []string{"transport"}, "properties": object{"transport": object{"const": TransportWireGuard}}}}}
	nodesNeed := func(key string) object {
		return object{"properties": object{nodeKey: object{"items": object{"required": []string{key}}}}}
	}
	s["if"], s["then"], s["else"] = sealed, nodesNeed("public_key"), nodesNeed("address")
	return s
}

// needed are the keys without which their table says nothing.
var needed = map[string][]string{
	"network": {"cidr"}, nodeKey: {"name", "subnets"}, routeKey: {"prefix"}, allowKey: {"to"},
}

// tableOf returns the schema of one table; "" is the file.
func tableOf(table string, says map[string]string) object {
	properties := object{}
	for _, key := range known[table] {
		path := strings.TrimPrefix(table+"."+key, ".")
		switch is, leaf := shapes[path]; {
		case leaf:
			properties[key] = is.schema(path, says)
		case isList(key):
			properties[key] = object{"type": "array", "items": tableOf(key, says)}
		default:
			properties[key] = tableOf(key, says)
		}
	}
	s := object{"type": "object", "additionalProperties": false, "properties": properties}
	if keys := needed[table]; keys != nil {
		s["required"] = keys
	}
	if table == "" {
		properties[nodeKey].(object)["minItems"] = 1
		properties[allowKey].(object)["maxItems"] = MaxAllows
	}
	return s
}

// schema returns what the value of a key may be.
func (is shape) schema(path string, says map[string]string) object {
	s := is.one()
	if is.either == aTable {
		s = object{"anyOf": []object{s, tableOf(path, says)}}
	}
	if is.list {
		list := object{"type": "array", "items": s}
		if is.min > 0 {
			list["minItems"] = is.min
		}
		if is.max > 0 {
			list["maxItems"] = is.max
		}
		if s = list; is.lone {
			s = object{"anyOf": []object{is.one(), list}}
		}
	}
	if is.def != nil {
		s["default"] = is.def
	}
	if text := says[path]; text != "" {
		s["description"] = text
	}
	return s
}

// one returns the schema of one value.
func (is shape) one() object {
	switch is.form {
	case aFlag:
		return object{"type": "boolean"}
	case aFlagOrAll:
		return object{"enum": []any{true, false, Everything}}
	case aWord:
		return object{"enum": is.words}
	case aDuration:
		return object{"type": "string", "pattern": aTime}
	case aNumber:
		n := object{"type": "integer", "minimum": is.low, "maximum": is.high}
		if is.zero {
			return object{"anyOf": []object{{"const": 0}, n}}
		}
		return n
	}
	s := object{"type": "string"}
	if is.pattern != "" {
		s["pattern"] = is.pattern
	}
	if is.most > 0 {
		s["maxLength"] = is.most
	}
	switch {
	case is.never != "":
		s["not"] = object{"pattern": is.never}
	case is.not != nil:
		s["not"] = object{"enum": is.not}
	}
	return s
}

// manual returns what mesh.toml(5) says of each key, by its path: the first paragraph.
func manual(t testing.TB) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../packaging/man/mesh.toml.5")
	if err != nil {
		t.Fatal(err)
	}
	says := map[string]string{ // which the page explains with routes
		"node.routes.prefix": "A prefix that is reached through the node.",
		"node.routes.metric": "Of nodes with the same prefix, the one with the lowest metric carries its packets.",
	}
	table, key, in := "", "", false
	heading := regexp.MustCompile(`^\.Ss The tables? (\w+)`)
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		switch m := heading.FindStringSubmatch(line); {
		case m != nil:
			table, in = m[1], false
		case strings.HasPrefix(line, ".Sh "):
			table = ""
		case table != "" && strings.HasPrefix(line, ".It Li "):
			key, in = table+"."+strings.TrimPrefix(line, ".It Li "), true
		case line == ".Pp" || line == ".El":
			in = false
		case in:
			says[key] = strings.TrimSpace(says[key] + " " + plain(line))
		}
	}
	return says
}

// plain turns a line of mdoc into text.
func plain(line string) string {
	macro, text, ok := strings.Cut(line, " ")
	if !strings.HasPrefix(macro, ".") {
		text = line
	} else if !ok {
		return macro
	}
	text = strings.ReplaceAll(text, `\(dq`, `"`)
	text = regexp.MustCompile(` ([.,:;])$`).ReplaceAllString(text, "$1")
	if macro == ".Xr" {
		text = regexp.MustCompile(`^(\S+) (\d)`).ReplaceAllString(text, "$1($2)")
	}
	return text
}

// compiled returns the schema as a library understands it.
func compiled(t testing.TB, s object) *jsonschema.Schema {
	t.Helper()
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(s); err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(&text)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mesh.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	all, err := c.Compile("mesh.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// jsonOf returns a TOML file as JSON, as editors hand it to a schema; ok is false if it is no TOML.
func jsonOf(t testing.TB, doc string) (value any, ok bool) {
	t.Helper()
	var tree object
	if _, err := toml.Decode(strings.TrimPrefix(doc, "\ufeff"), &tree); err != nil {
		return nil, false
	}
	text, err := json.Marshal(tree)
	if err != nil { // inf and nan, which JSON does not have
		return nil, false
	}
	value, err = jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return value, true
}

// The file that is shipped is what the table says, and explains every key.
func TestSchemaIsOfTheTable(t *testing.T) {
	for table, keys := range known {
		for _, key := range keys {
			if path := strings.TrimPrefix(table+"."+key, "."); table != "" && shapes[path].form != aTable {
				if _, ok := shapes[path]; !ok {
					t.Errorf("the table has no shape of %q", path)
				}
				if manual(t)[path] == "" {
					t.Errorf("mesh.toml(5) does not explain %q", path)
				}
			}
		}
	}
	for path := range shapes {
		at := strings.LastIndexByte(path, '.')
		if !slices.Contains(known[path[:at]], path[at+1:]) {
			t.Errorf("%q is not a key", path)
		}
	}
	for path, is := range shapes { // defaults are valid
		if is.def != nil && compiled(t, is.schema(path, nil)).Validate(is.def) != nil {
			t.Errorf("the default of %q is not valid: %v", path, is.def)
		}
	}
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema(manual(t))); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%s is not what the table says (-update rewrites it): %v", schemaFile, err)
	}
}

// beyond are the bad files whose faults no schema sees, with the reason.
var beyond = map[string]string{
	"allow-word.toml":             "the name of a node depends on whether there are rules",
	"container.toml":              "two paths are equal",
	"duplicates.toml":             "names and addresses are used twice",
	"host-bits.toml":              "arithmetic",
	"keys-next-udp.toml":          "a key depends on another one",
	"outside.toml":                "arithmetic",
	"overlaps.toml":               "arithmetic",
	"special-route.toml":          "arithmetic",
	"via-udp.toml":                "a name leads to another table",
	"wireguard-network-port.toml": "two ports are equal",
}

// Schema and program judge every file alike, where a schema can judge: it must see values, so a file that
// is no TOML has none.
func TestSchemaJudgesAlike(t *testing.T) {
	all := compiled(t, schema(nil))
	var paths []string
	for _, pattern := range []string{"testdata/*/*.toml", "../../configs/*.toml", "../e2e/testdata/*.toml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	judged := 0
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			doc, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			value, isTOML := jsonOf(t, string(doc))
			_, fault := Parse(path, doc)
			if !isTOML {
				if fault == nil {
					t.Error("the program accepts what is no TOML")
				}
				return
			}
			judged++
			says := all.Validate(value)
			_, blind := beyond[filepath.Base(path)]
			switch {
			case fault == nil && says != nil:
				t.Errorf("the program accepts the file, and the schema does not: %v", says)
			case fault != nil && says == nil && !blind:
				t.Errorf("the schema accepts the file, and the program does not: %v", fault)
			case says != nil && blind:
				t.Errorf("the schema does see it: %v", says)
			}
		})
	}
	if judged < 20 {
		t.Errorf("only %d files were judged", judged)
	}
}

// values are what each key gets in turn: all that any test, or a fuzzer, came upon.
var oddValues = []any{"", "a", "A", "mesh", "outside", "auto", "off", "all", "kernel", "tcx", true, false,
	int64(0),
	int64(1), int64(255), int64(576), int64(1279), int64(65535), int64(65536), int64(-1), 1.5, "1s", "0",
	"-0s", "+1s",
	"1.s", ".5s", "1h0m", "2h", "1µs", "1", "9285", ":9285", ":0", ":09285", "[::1]:9285", "::1:9285", "a b:1",
	"127.0.0.1:9285", "/", "/a", "/a/", "//a", "/a/../b", "/a/.", "/a/.b", "/..a", "a/b", "mesh0", "lo", "a%b",
	"a:b",
	"meshd-wg", "0123456789abcde", "0123456789abcdef", "10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/08", "10.0.0.0/33",
	"10.0.0.1/8", "010.0.0.0/8", "fd00::/8", "fd00::/129", "::/0", "::ffff:10.0.0.0/104",
	"64:ff9b::192.0.2.0/120",
	"FD00::/8", "fe80::%eth0/64", "192.0.2.1", "192.0.2.1:0", "192.0.2.1:080", "192.0.2.1:65536", "192.0.2.256",
	"[2001:db8::1]:1", "[2001:db8::1]", "2001:db8::1", "[192.0.2.1]:1", "fe80::1%eth0", "64:ff9b::192.0.2.1",
	"example.org", "Example.ORG.", "example.org:1", "a..b", "-a", "a_b", "1.2.3.x", "localhost", "xn--a", "7",
	"a.7",
	"tcp", "tcp/443", "tcp/0", "tcp/1-2", "tcp/2-1", "tcp/00080", "icmp", "icmp/1", "TCP", "tcp/", "#1",
	"a.b-c_d",
	strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("ä", 64), strings.Repeat("a", 65), "a\nb",
	"\x7f",
	"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "=",
	time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}

// whole returns a file in which one key has a value, and everything else is right.
func whole(t testing.TB, path string, value any) (doc string) {
	t.Helper()
	node := object{"name": "edge-1", "address": "172.18.0.1", "subnets": []any{"10.1.0.0/24"}}
	rule, route := object{"to": []any{"mesh"}}, object{"prefix": "192.168.7.0/24"}
	file := object{"network": object{"cidr": "10.0.0.0/8"}, nodeKey: []object{node}}
	table, key := path[:strings.LastIndexByte(path, '.')], path[strings.LastIndexByte(path, '.')+1:]
	switch table {
	case nodeKey:
		node[key] = value
	case allowKey:
		rule[key] = value
		file[allowKey] = []object{rule}
	case routeKey:
		route[key] = value
		node["routes"] = []any{route}
	default:
		section, _ := file[table].(object)
		if section == nil {
			section = object{}
		}
		section[key] = value
		file[table] = section
	}
	var text strings.Builder
	if err := toml.NewEncoder(&text).Encode(file); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// An editor never marks what the program accepts, whatever key has whatever value.
func TestSchemaAcceptsWhatTheProgramDoes(t *testing.T) {
	all, accepted := compiled(t, schema(nil)), 0
	for path := range shapes {
		for _, value := range oddValues {
			for _, v := range []any{value, []any{value}} {
				doc := whole(t, path, v)
				if _, err := Parse("mesh.toml", []byte(doc)); err != nil {
					continue
				}
				accepted++
				if value, ok := jsonOf(t, doc); !ok || all.Validate(value) != nil {
					t.Errorf("%s = %v: the program accepts it: %v", path, v, all.Validate(value))
				}
			}
		}
	}
	if accepted < 100 {
		t.Errorf("only %d files were accepted", accepted)
	}
}

// FuzzSchema looks for files that the program accepts, and the schema does not.
func FuzzSchema(f *testing.F) {
	f.Add(string(configs.Starter))
	f.Add(sealed)
	paths, err := filepath.Glob("testdata/*/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		doc, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(doc))
	}
	all := compiled(f, schema(nil))
	f.Fuzz(func(t *testing.T, doc string) {
		defer budget.Of(t)()
		if _, err := Parse("mesh.toml", []byte(doc)); err != nil {
			return
		}
		if value, ok := jsonOf(t, doc); ok && all.Validate(value) != nil {
			t.Error(all.Validate(value))
		}
	})
}
