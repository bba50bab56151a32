package config

import (
	"math"
	"strings"
	"time"
)

// The table of what each value may be by itself. Validation takes bounds, words and defaults from here, and
// mesh.schema.json, by which editors judge a file, is made of it: so both cannot disagree. What depends on
// other values or on this host is code, in validate.go and behind it.

// A form is what kind of value a key takes.
type form int

const (
	aText      form = iota // quoted, see shape.pattern
	aFlag                  // true or false
	aFlagOrAll             // true, false or Everything
	aNumber                // whole, see shape.low
	aWord                  // one of shape.words
	aDuration              // quoted, with a unit; 0 or between shape.least and shape.longest
	aTable                 // its keys are those of known
)

// A shape is what the value of one key may be. Patterns are regular expressions that Go and ECMAScript
// understand alike. A pattern may accept more than validation does, and never less.
type shape struct {
	form form
	def  any // the default: what the JSON of a file without the key would have; nil if there is none

	low, high int           // of a number, both included
	zero      bool          // of a number: 0 is valid, too, though it is below low
	least     time.Duration // of a duration that is not 0
	longest   time.Duration
	words     []string // the first is the default

	pattern string   // of a text
	never   string   // of a text: what it must not match
	not     []string // of a text: words that are taken
	most    int      // of a text: characters; 0: no limit of its own

	list     bool // it takes a list of such values
	lone     bool // a list of one may be written as the value alone
	min, max int  // elements of the list; max is 0 without a bound
	either   form // aTable: an element may also be a table of this key
}

// Parts of patterns. Numbers have leading zeros where Go's parsers allow them.
const (
	aByte     = `(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`
	anIPv4    = `(` + aByte + `\.){3}` + aByte
	anIPv6    = `[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*`
	aPort     = `0*[1-9][0-9]{0,4}`
	aPrefix   = `(` + anIPv4 + `/(3[0-2]|[12]?[0-9])|` + anIPv6 + `/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))`
	aHostName = `([A-Za-z0-9-]+\.)*[A-Za-z0-9-]*[A-Za-z-][A-Za-z0-9-]*\.?`
	aName     = `[a-z0-9.-]{1,63}`
	aService  = `(icmp|(tcp|udp|sctp)(/` + aPort + `(-` + aPort + `)?)?)`

	anAddress = `^(` + anIPv4 + `(:` + aPort + `)?|` + anIPv6 + `|\[` + anIPv6 + `\]:` + aPort + `|` +
		aHostName + `(:` + aPort + `)?)$`
	// What ParseDuration of package time takes.
	aTime = `^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	// What no path has that is in its shortest form.
	detours = `//|/\.\.?(/|$)|./$`
)

var (
	somePort = func(def int) shape { return shape{form: aNumber, low: 1, high: math.MaxUint16, def: def} }
	someFlag = func(def bool) shape { return shape{form: aFlag, def: def} }
	someWord = func(words ...string) shape { return shape{form: aWord, words: words, def: words[0]} }
	someFile = func(def string) shape { return shape{pattern: `^($|/)`, never: detours, def: def} }
	someKey  = shape{pattern: `^([A-Za-z0-9+/]{43}=)?$`}
	parties  = shape{pattern: `^(` + aName + `|` + aPrefix + `)$`, list: true, min: 1}
	prefixes = shape{pattern: `^` + aPrefix + `$`, list: true}
)

// shapes has every key of known, by its path without indexes.
var shapes = map[string]shape{
	"network.name": {pattern: `^[^\x00-\x1f\x7f]+$`, most: 64, def: "mesh"},
	"network.cidr": {pattern: prefixes.pattern, list: true, lone: true, min: 1, max: 2},
	"network.port": somePort(8285),
	"network.interface": {pattern: `^[!-$&-.0-9;-~]{1,15}$`, def: "mesh0",
		not: append([]string{".", "..", "lo", "all", "default"}, ownInterfaces...)},
	"network.mtu":       {form: aNumber, low: minMTU, high: maxMTU, zero: true, def: 0},
	"network.transport": someWord(TransportUDP, TransportWireGuard),

	"wireguard.port":        somePort(int(defaultWireGuard.Port)),
	"wireguard.private_key": {pattern: `^/`, never: detours, def: defaultWireGuard.PrivateKey},

	"dataplane.engine":  someWord(Auto, EngineKernel, EngineUser),
	"dataplane.receive": someWord(Auto, "fou", "xdp", "tcx", "socket"),
	"dataplane.offload": someWord(Auto, Off),
	"dataplane.queues":  {form: aNumber, low: 0, high: 256, def: 0}, // MAX_TAP_QUEUES
	"dataplane.spread":  someFlag(false),

	"masquerade.enabled":      someFlag(true),
	"masquerade.fully_random": someFlag(true),
	"masquerade.exclude":      prefixes,
	"masquerade.forward":      {form: aFlagOrAll, def: true},

	"probe.interval": {form: aDuration, least: 100 * time.Millisecond, longest: time.Hour, def: "1s"},
	"probe.speed":    someFlag(false),
	"metrics.listen": {pattern: `^([!-~]*:` + aPort + `)?$`, def: ""},

	"container.subnet_env": someFile("/run/flannel/subnet.env"),
	"container.cni_conf":   someFile(""),

	"node.name":            {pattern: `^` + aName + `$`},
	"node.address":         {pattern: anAddress, list: true, lone: true, min: 1, max: MaxAddresses},
	"node.subnets":         {pattern: prefixes.pattern, list: true, min: 1},
	"node.routes":          {pattern: prefixes.pattern, list: true, either: aTable},
	"node.routes.prefix":   {pattern: prefixes.pattern},
	"node.routes.metric":   {form: aNumber, low: 0, high: maxMetric, def: DefaultMetric},
	"node.public_key":      someKey,
	"node.next_public_key": someKey,
	"node.endpoint":        {pattern: strings.Replace(anAddress, "^(", "^(|", 1)},
	"node.via":             {},

	"allow.name":  {pattern: ruleName.String()},
	"allow.from":  parties,
	"allow.to":    parties,
	"allow.proto": {pattern: `^` + aService + `$`, list: true, min: 1},
}

// A section is a table of a file with the report that its faults go to. Its methods read one key each, by
// its shape.
type section struct {
	*report
	name string
	raw  rawTable
}

// section returns a table of a file; one that is not there has the defaults.
func (r *report) section(file rawFile, name string) section {
	return section{r, name, file.sections[name]}
}

// of returns what the methods of report want to know of a key.
func (s section) of(key string) (path string, leaf any, is shape) {
	path = s.name + "." + key
	return path, s.raw[key], shapes[path]
}

// text reads a string of any content.
func (s section) text(key string) string {
	path, leaf, is := s.of(key)
	return s.report.text(path, leaf, is.def.(string))
}

// flag reads true or false.
func (s section) flag(key string) bool {
	path, leaf, is := s.of(key)
	return s.report.flag(path, leaf, is.def.(bool))
}

// number reads a whole number.
func (s section) number(key string) int {
	path, leaf, is := s.of(key)
	return s.report.number(path, leaf, is.low, is.high, is.def.(int))
}

// word reads one of several words.
func (s section) word(key string) string {
	path, leaf, is := s.of(key)
	return s.report.oneOf(path, leaf, is.words...)
}

// duration reads a time.
func (s section) duration(key string) time.Duration {
	path, leaf, is := s.of(key)
	def, err := time.ParseDuration(is.def.(string))
	if err != nil {
		panic(err) // a slip in the table, which the first test sees
	}
	return s.report.duration(path, leaf, is.least, is.longest, def)
}

// file reads the path of a file that meshd writes.
func (s section) file(key string) string {
	path, leaf, is := s.of(key)
	return s.report.file(path, leaf, is.def.(string))
}

// listen reads host:port.
func (s section) listen(key string) string {
	path, leaf, _ := s.of(key)
	return s.report.listen(path, leaf)
}

// flagOrAll reads true, false or "all".
func (s section) flagOrAll(key string) (on, all bool) {
	path, leaf, is := s.of(key)
	return s.report.flagOrAll(path, leaf, is.def.(bool))
}

// interfaceName reads the name of the TUN.
func (s section) interfaceName(key string) string {
	path, leaf, is := s.of(key)
	return s.report.interfaceName(path, leaf, is.def.(string))
}
