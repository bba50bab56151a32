// Command manifest reads manifests for Kubernetes from standard input as the API server would with strict
// validation: each document is decoded into the type of the API, and a key that the type does not have is a
// fault. It prints the objects as a JSON array.
//
// It is a module of its own, since the types of the API come with modules that nothing else here needs.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kinds are the types of what a manifest of ours may have.
var kinds = map[metav1.TypeMeta]func() any{
	{APIVersion: "v1", Kind: "Namespace"}:      func() any { return &corev1.Namespace{} },
	{APIVersion: "v1", Kind: "ConfigMap"}:      func() any { return &corev1.ConfigMap{} },
	{APIVersion: "v1", Kind: "Pod"}:            func() any { return &corev1.Pod{} },
	{APIVersion: "apps/v1", Kind: "DaemonSet"}: func() any { return &appsv1.DaemonSet{} },
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "manifest:", err)
		os.Exit(1)
	}
}

// run reads all documents, and writes the objects.
func run(in io.Reader, out io.Writer) error {
	objects := []any{}
	for decoder := yaml.NewDecoder(in); ; {
		var doc any
		if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if doc == nil { // what stands before the first ---
			continue
		}
		object, err := strict(doc)
		if err != nil {
			return fmt.Errorf("document %d: %w", len(objects)+1, err)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		return errors.New("there is no document")
	}
	return json.NewEncoder(out).Encode(objects)
}

// strict returns a document as an object of the API.
func strict(doc any) (any, error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var kind metav1.TypeMeta
	if err := json.Unmarshal(text, &kind); err != nil {
		return nil, err
	}
	make, known := kinds[kind]
	if !known {
		return nil, fmt.Errorf("%s of %q is not known here", kind.Kind, kind.APIVersion)
	}
	object, decoder := make(), json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(object); err != nil {
		return nil, fmt.Errorf("%s: %w", kind.Kind, err)
	}
	return object, nil
}
