// Package configs holds the configuration files that ship with meshd, so that
// `meshd init` prints what the packages install as an example.
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

// MinimalExample is minimal.toml, the smallest mesh.
//
//go:embed minimal.toml
var MinimalExample []byte
