package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Bounds of YAML, whose parser needs some hundred bytes of memory for each value.
const (
	maxYAML  = 16 << 20 // bytes; JSON may be larger
	maxDepth = 100      // mappings and lists around a value: Kubernetes has about 15
)

// yamlDocuments returns the documents of a YAML stream as JSON, so that all else is read in one way.
// Aliases are refused: kubectl prints none, and a few of them can stand for gigabytes.
func yamlDocuments(content []byte) (docs []json.RawMessage, err error) {
	if len(content) > maxYAML {
		return nil, fmt.Errorf("%w: the limit of YAML is %d MiB: use `kubectl get ... -o json`", ErrTooLarge,
			maxYAML>>20)
	}
	d := yaml.NewDecoder(bytes.NewReader(content))
	for n := 0; ; n++ {
		var doc yaml.Node
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return docs, nil
		} else if err != nil {
			return nil, fmt.Errorf("%w: neither JSON nor YAML: %w", ErrUnknown, err)
		}
		if n == maxDocs {
			return nil, errDocs
		}
		if !interesting(&doc) {
			continue
		}
		value, err := valueOf(&doc, 0)
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		docs = append(docs, raw)
	}
}

// interesting reports whether a document may say something about the network. A manifest has many
// that do not.
func interesting(doc *yaml.Node) bool {
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return false
	}
	for pair := range slices.Chunk(doc.Content[0].Content, 2) {
		if pair[0].Value == "kind" {
			return slices.Contains([]string{"ConfigMap", "ConfigMapList", "Node", "NodeList", "List",
				"ClusterConfiguration"}, pair[1].Value)
		}
	}
	return true
}

// valueOf turns a node into what encoding/json writes. deep is how much is around it.
func valueOf(n *yaml.Node, deep int) (any, error) {
	if deep > maxDepth {
		return nil, fmt.Errorf("line %d: %w: values inside of more than %d others", n.Line, ErrTooLarge, maxDepth)
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return valueOf(n.Content[0], deep)
	case yaml.MappingNode:
		table := make(map[string]any, len(n.Content)/2)
		for pair := range slices.Chunk(n.Content, 2) {
			value, err := valueOf(pair[1], deep+1)
			if err != nil {
				return nil, err
			}
			table[pair[0].Value] = value
		}
		return table, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, element := range n.Content {
			value, err := valueOf(element, deep+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		return list, nil
	case yaml.ScalarNode:
		return scalarOf(n), nil
	}
	return nil, fmt.Errorf("line %d: %w: an alias: use the output of kubectl", n.Line, ErrInvalid)
}

// scalarOf returns a scalar as JSON has it: what is no number, boolean or null in both is text.
func scalarOf(n *yaml.Node) any {
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b
		}
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value)
		}
	}
	return n.Value
}
