package dataplane

import "log/slog"

// Options is what an engine gets from its owner.
type Options struct {
	Log *slog.Logger
	// Hear is asked about echoes from peers; nil: the kernel gets them all.
	Hear EchoHandler
	// Doubt is called when somebody says by ICMP that packets are larger than the path to a peer. It may
	// be forged, and comes as often as strangers like. It must not wait; nil: nobody cares.
	Doubt func(peer string)
	// Start runs a loop in a goroutine until it ends. Engines start no goroutines.
	Start func(Loop)
	// Broken is called when Apply has something to do: a loop ended with an error, or programs have to
	// be attached anew. It must not wait.
	Broken func()
}
