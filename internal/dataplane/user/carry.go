package user

import "example.org/meshd/internal/mesh"

// Carry implements dataplane.Engine.
func (u *Engine) Carry(mesh.Prefix, string) error { return nil }
