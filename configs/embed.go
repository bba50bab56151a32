// Package configs holds the configuration files that ship with meshd, so that
// `meshd init` prints the very bytes that the packages install as examples.
package configs

import "embed"

// Files holds every *.toml of this directory.
//
//go:embed *.toml
var Files embed.FS

// Starter is mesh.toml, the commented starter file.
//
//go:embed mesh.toml
var Starter []byte
