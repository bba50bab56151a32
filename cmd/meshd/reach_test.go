package main

import (
	"fmt"
	"strings"
	"testing"
)

// `meshd route FROM TO` says from the file alone which rule decides, by its exit code, too.
func TestRouteExplainsRules(t *testing.T) {
	file := write(t, `[network]
cidr = "10.244.0.0/16"
[[node]]
name = "a"
address = "172.18.0.1"
subnets = ["10.244.1.0/24"]
[[node]]
name = "b"
address = "172.18.0.2"
subnets = ["10.244.2.0/24"]
[[allow]]
name = "web"
from = ["a"]
to = ["b"]
proto = ["tcp/443"]
[[allow]]
from = ["outside"]
to = ["10.244.2.7/32"]
`)
	for _, test := range []struct {
		ask  string
		code int
		rule string // in JSON
	}{
		{"a b tcp/443", 0, `"web"`}, {"10.244.1.9 10.244.2.9 tcp/443", 0, `"web"`}, {"a b", 0, `"web"`},
		{"a b tcp/444", 1, `""`}, {"outside b tcp/443", 1, `""`}, {"outside 10.244.2.7 udp/9", 0, `"#2"`},
		{"b a tcp/1", 0, `""`}, {"b b tcp/1", 0, `""`}, {"a 10.244.2.0 tcp/1", 0, `""`}, {"a 192.0.2.7", 0, `""`},
		{"a c", 2, ""}, {"a b tcp/0", 2, ""}, {"a fd00::1", 2, ""}, {"a", 2, ""},
	} {
		t.Run(test.ask, func(t *testing.T) {
			args := append([]string{"-c", file, "--json", "route"}, strings.Fields(test.ask)...)
			code, out, errs := meshd(args...)
			if code != test.code || test.rule != "" && !strings.Contains(out, `"rule": `+test.rule) {
				t.Errorf("exit %d: %s%s", code, out, errs)
			}
			if code, out, _ := meshd(append([]string{"-c", file, "route"}, strings.Fields(test.ask)...)...); code !=
				test.code || (code < 2) != (out != "") {
				t.Errorf("exit %d: %s", code, out)
			}
		})
	}
}

// An end that is misspelled is refused, with the name that was meant.
func TestRouteProposesAnEnd(t *testing.T) {
	doc := "[network]\ncidr = '10.244.0.0/16'\n"
	for i, name := range []string{"edge-1", "core"} {
		doc += fmt.Sprintf("[[node]]\nname = '%s'\naddress = '172.18.0.%d'\nsubnets = ['10.244.%d.0/24']\n",
			name, i+1, i+1)
	}
	file := write(t, doc)
	for asked, meant := range map[string]string{"edge1": `"edge-1"`, "outsid": `"outside"`, "10.244.1": "",
		"somewhere": ""} {
		t.Run(asked, func(t *testing.T) {
			code, out, errs := meshd("-c", file, "route", asked, "core", "tcp/443")
			if code != 2 || out != "" || meant != "" && !strings.Contains(errs, meant) ||
				meant == "" && strings.Contains(errs, `"edge-1"`) {
				t.Errorf("exit %d: %s%s", code, out, errs)
			}
		})
	}
}
