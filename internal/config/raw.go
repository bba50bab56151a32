package config

import (
	"errors"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"
)

// The raw structs are the file's words, key by key. Leaves are untyped so that
// a wrong type is one fault among the others and does not stop the reading.
// A key exists if and only if it stands here.

type rawFile struct {
	Network    toml.Primitive `toml:"network"`
	Dataplane  toml.Primitive `toml:"dataplane"`
	Masquerade toml.Primitive `toml:"masquerade"`
	Probe      toml.Primitive `toml:"probe"`
	Metrics    toml.Primitive `toml:"metrics"`
	Container  toml.Primitive `toml:"container"`
	Node       toml.Primitive `toml:"node"`
}

type rawSections struct {
	Network    rawNetwork
	Dataplane  rawDataplane
	Masquerade rawMasquerade
	Probe      rawProbe
	Metrics    rawMetrics
	Container  rawContainer
	Node       []rawNode
}

type rawNetwork struct {
	Name      any `toml:"name"`
	CIDR      any `toml:"cidr"`
	Port      any `toml:"port"`
	Interface any `toml:"interface"`
	MTU       any `toml:"mtu"`
}

type rawDataplane struct {
	Engine  any `toml:"engine"`
	Receive any `toml:"receive"`
	Offload any `toml:"offload"`
	Queues  any `toml:"queues"`
	Spread  any `toml:"spread"`
}

type rawMasquerade struct {
	Enabled     any `toml:"enabled"`
	FullyRandom any `toml:"fully_random"`
	Exclude     any `toml:"exclude"`
	Forward     any `toml:"forward"`
}

type rawProbe struct {
	Interval any `toml:"interval"`
}

type rawMetrics struct {
	Listen any `toml:"listen"`
}

type rawContainer struct {
	SubnetEnv any `toml:"subnet_env"`
	CNIConf   any `toml:"cni_conf"`
}

type rawNode struct {
	Name    any `toml:"name"`
	Address any `toml:"address"`
	Subnets any `toml:"subnets"`
	Routes  any `toml:"routes"`
}

// known maps each table's path (without indexes) to its keys, in struct order.
var known = map[string][]string{
	"":           tags(rawFile{}),
	"network":    tags(rawNetwork{}),
	"dataplane":  tags(rawDataplane{}),
	"masquerade": tags(rawMasquerade{}),
	"probe":      tags(rawProbe{}),
	"metrics":    tags(rawMetrics{}),
	"container":  tags(rawContainer{}),
	"node":       tags(rawNode{}),
}

func tags(v any) []string {
	var keys []string
	for f := range reflect.TypeOf(v).Fields() {
		keys = append(keys, f.Tag.Get("toml"))
	}
	return keys
}

// tomlKey is a dotted key, part by part.
type tomlKey = toml.Key

// decode reads doc into the raw structs. Faults of syntax end the reading;
// everything else is noted in r and reading goes on.
func decode(doc string, r *report) (sections rawSections) {
	var file rawFile
	md, err := toml.Decode(doc, &file)
	if err != nil {
		r.syntax(syntaxFault(err))
		return sections
	}
	r.unknown(md.Keys())
	section := func(key, want string, p toml.Primitive, dst any) {
		if md.IsDefined(key) && md.PrimitiveDecode(p, dst) != nil {
			r.add(key, "must be %s, not %s", want, describe(md.Type(key)))
		}
	}
	section("network", "a table: [network]", file.Network, &sections.Network)
	section("dataplane", "a table: [dataplane]", file.Dataplane, &sections.Dataplane)
	section("masquerade", "a table: [masquerade]", file.Masquerade, &sections.Masquerade)
	section("probe", "a table: [probe]", file.Probe, &sections.Probe)
	section("metrics", "a table: [metrics]", file.Metrics, &sections.Metrics)
	section("container", "a table: [container]", file.Container, &sections.Container)
	section("node", "a list of tables: [[node]]", file.Node, &sections.Node)
	return sections
}

// syntaxFault returns the offset and the words of a decoding error.
func syntaxFault(err error) (at int, message string) {
	if pe, ok := errors.AsType[toml.ParseError](err); ok {
		return pe.Position.Start, pe.Message
	}
	return 0, strings.TrimPrefix(err.Error(), "toml: ")
}

// describe names a TOML type as MetaData.Type spells it, in words.
func describe(tomlType string) string {
	switch tomlType {
	case "Hash":
		return "a table"
	case "ArrayHash":
		return "a list of tables"
	case "Array":
		return "a list"
	case "":
		return "this"
	case "Integer":
		return "an integer"
	default:
		return "a " + strings.ToLower(tomlType)
	}
}
